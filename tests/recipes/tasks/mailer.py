from driver import *

# As printed: it runs until a signal comes, finishes what it has, and exits.
for stop in signal.SIGTERM, signal.SIGINT:
    C("TASK.PUBLISH", "mail", f"ann {stop.name}")
    mailer = start("mailer.py")
    until(lambda: mailer.printed == [f"sending ann {stop.name}\n"])
    mailer.send_signal(stop)
    same(mailer.wait(20), 0)
    same(len(mailer.printed), 1)
same(C("XLEN", "mail"), 0)
