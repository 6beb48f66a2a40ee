from driver import *
from publish import sign_up, sign_up_from_elsewhere

ids = [sign_up("ann@example.org"), sign_up("ann@example.org"), sign_up_from_elsewhere("bob@example.org")]
found = shared.xrange("mail")
same([id.decode() for id, _ in found], ids)
same({fields[b"payload"] for _, fields in found}, {b'{"to":"ann@example.org"}', b'{"to":"bob@example.org"}'})
# The id that makes a second attempt safe.
same(len(C("KEYS", "unique4:{mail}:*")), 3)
