"""A plain worker. Run it with `corral worker mailer:worker`; publish with `corral publish mail welcome '{"to": "ann"}'`."""

import os
import smtplib

from corral_client import Corral, Later, Task, Worker

corral = Corral.from_url(os.environ.get("CORRAL_URL", "redis://localhost:6379"))
mail = corral.queue("mail")


@mail.task(tries=8, max_runtime="2m")
def welcome(task: Task, to: str) -> None:
    try:
        with smtplib.SMTP(os.environ.get("SMTP_HOST", "localhost"), int(os.environ.get("SMTP_PORT", "25")), timeout=30) as server:
            server.sendmail("shop@example.org", to, f"Message-ID: <{task.id}@example.org>\nSubject: Welcome\n\nWelcome")
    except ConnectionRefusedError:
        raise Later("30s", "the mail server is away") from None  # this is no try; any other error is one


worker = Worker([mail], concurrency=4)
