"""Django: a task is published when the transaction is committed, and not if it is rolled back.

A project of one file; `python orders.py runserver`, and `corral worker orders:worker` beside it.
"""

import os
import sys
from functools import partial

import django
from corral_client import Corral, Task, Unique, Worker
from django.conf import settings
from django.core.management import execute_from_command_line
from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

if not settings.configured:
    settings.configure(
        SECRET_KEY="example",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("SHOP_DATABASE", "orders.db")}},
    )
    django.setup()

corral = Corral.from_url(os.environ.get("CORRAL_URL", "redis://localhost:6379"))
orders = corral.queue("orders")


def execute(statement: str, *values: object) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, state TEXT)")
        cursor.execute(statement, values)
        return cursor.fetchall()


@orders.task(tries=5)
def confirm(task: Task, order_id: int) -> None:
    execute("UPDATE orders SET state = 'confirmed' WHERE id = %s", order_id)


def create(request: HttpRequest, order_id: int) -> JsonResponse:
    with transaction.atomic():
        execute("INSERT INTO orders VALUES (%s, 'new')", order_id)
        once = confirm.options(unique=Unique(f"confirm:{order_id}", "1h"))
        transaction.on_commit(partial(once.publish, order_id=order_id))
        if request.GET.get("fail"):
            raise ValueError("the transaction is rolled back")
    return JsonResponse({"order": order_id})


def show(request: HttpRequest, order_id: int) -> JsonResponse:
    return JsonResponse({"state": execute("SELECT state FROM orders WHERE id = %s", order_id)})


urlpatterns = [path("create/<int:order_id>", create), path("show/<int:order_id>", show)]
worker = Worker([orders], concurrency=4)

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
