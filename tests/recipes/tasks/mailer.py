from driver import *

# As the page says: it runs until a signal comes, finishes what it has, and exits.
for stop in signal.SIGTERM, signal.SIGINT:
    address = f"{stop.name}@example.org"
    corral.queue("mail").publish("welcome", {"to": address})
    mailer = corral_worker("mailer:worker")
    until(lambda: f"sending {address}\n" in mailer.printed)
    until(lambda: is_done("mail"))
    mailer.send_signal(stop)
    same(mailer.wait(20), 0)
# No address: a dead letter at once.
corral.queue("mail").publish("welcome", {"to": "ann"})
from mailer import worker
work_off(worker, lambda: is_done("mail"))
[[_, fields]] = shared.xrange("dead:{mail}")
same((fields[b"reason"], fields[b"retry_count"]), (b"Fatal: no address", b"1"))
