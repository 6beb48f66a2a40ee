from driver import *
from semaphore import fetch_report

count, most, guard = 0, 0, threading.Lock()
def download():
    global count, most
    with guard:
        count += 1
        most = max(most, count)
    time.sleep(0.05)
    with guard:
        count -= 1
    return "report"
same(at_once(30, lambda: fetch_report(download)), ["report"] * 30)
same(most, 5)
