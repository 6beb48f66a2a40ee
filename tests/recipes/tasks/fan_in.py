from driver import *
from corral_client import Worker
from fan_in import part, split
from mailer import mail

assembled = []
mail._definitions["assemble"].function = lambda task, job: assembled.append(job)
split("report", 20)
# One of them runs twice.
part.publish(job="report", number=7)
work_off(Worker([mail], concurrency=8), lambda: is_done("mail"))
same((assembled, C("EXISTS", "parts:report", "dead:{mail}")), (["report"], 0))
