from driver import *
from durable import welcome_durably
from mailer import worker

id, enough = welcome_durably("ann@example.org", "welcome:ann", replicas=0)
same((enough, [id]), (True, [id.decode() for id, _ in shared.xrange("mail")]))
# No replica has it; to ask again is not to publish again.
for _ in range(2):
    again, enough = welcome_durably("ann@example.org", "welcome:ann", replicas=1, patience_ms=20)
    same((again, enough, C("XLEN", "mail")), (id, False, 1))
work_off(worker, lambda: is_done("mail"))
same(C("EXISTS", "dead:{mail}"), 0)
