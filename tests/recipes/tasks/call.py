from driver import *
from call import call
from corral_client import CorralError, Worker
from mailer import mail

with Worker([mail]):
    same(call("how much?"), "HOW MUCH?")
    same(at_once(20, lambda: call("and now?")), ["AND NOW?"] * 20)
try:
    call("nobody is there", patience=0.05)
    raise AssertionError("an answer")
except (CorralError, TimeoutError):
    pass
