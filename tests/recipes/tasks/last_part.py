from driver import *

script = shared.register_script(open("last_part.lua").read())
C("SET", "{mail}:parts", 3)
parts = [C("TASK.PUBLISH", "mail", f"part {n}") for n in range(3)]
C("TASK.CONSUME", "workers", "w1", "mail", "COUNT", 3, "META")
finish = lambda id: script(keys=["mail", "{mail}:parts"], args=["workers", id, "assemble"])
same([finish(parts[0]), finish(parts[0]), finish(parts[1])], [None] * 3)
same(C("TASK.CONSUME", "workers", "w1", "mail", "META"), [])
assert finish(parts[2])
[[_, fields, *_]] = C("TASK.CONSUME", "workers", "w1", "mail", "META")
same((fields[1], C("EXISTS", "{mail}:parts")), (b"assemble", 0))
