from driver import *
from mailer import welcome
from several import invoice

welcome.publish("ann@example.org")
invoice.publish("april")
process = corral_worker("several:worker")
until(lambda: {"sending ann@example.org\n", "the invoice of april\n"} <= set(process.printed))
until(lambda: is_done("mail", "invoices"))
# One connection waits for both.
same(counted("task_waiters"), 1)
process.terminate()
same(process.wait(20), 0)
