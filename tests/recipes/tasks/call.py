from driver import *
from call import answer, call
from worker import run, stopping

handler = lambda payload, key, lost: answer(payload, lambda question: question.upper())
server = threading.Thread(target=run, args=(handler,))
server.start()
same(call("how much?"), b"HOW MUCH?")
same(at_once(20, lambda: call("and now?")), [b"AND NOW?"] * 20)
stopping.set()
server.join()
fails(lambda: call("nobody is there", patience=50))
