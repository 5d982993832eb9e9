# A file system with one file, which is never read to its end; and somebody who maps it, and so holds its own memory in
# the kernel's hands: whoever reads its environment or its command line waits with it. All of that ends with this process.
import ctypes, mmap, os, signal, struct, sys, time

signal.alarm(20)
point = os.path.abspath("mounted")
os.mkdir(point)
device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
options = f"fd={device},rootmode=40755,user_id=0,group_id=0"
if ctypes.CDLL(None).mount(b"silent", point.encode(), b"fuse", 0, options.encode()):
    open("refused", "w").write("refused\n")
    sys.exit(1)


def go_on_as(what):
    if os.fork() == 0:
        os.close(device)
        signal.alarm(0)
        try:
            what()
        finally:
            os._exit(0)


def hold():
    path = point + "/file"
    # The server has the second one not be kept in memory.
    kept, direct = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
    if os.fork() == 0:
        os.pread(kept, 1, 0)
        os._exit(0)
    time.sleep(0.2)
    mmap.mmap(direct, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)


def tell():
    def is_held(pid):
        reader = os.fork()
        if reader == 0:
            open(f"/proc/{pid}/environ", "rb").read()
            os._exit(0)
        time.sleep(0.1)
        is_held = os.waitpid(reader, os.WNOHANG)[0] == 0
        if is_held:
            os.kill(reader, signal.SIGKILL)
            os.waitpid(reader, 0)
        return is_held

    children = f"/proc/{os.getppid()}/task/{os.getppid()}/children"
    for _ in range(100):
        held = [pid for pid in map(int, open(children).read().split()) if pid != os.getpid() and is_held(pid)]
        if held:
            open("held.new", "w").write(f"{held[0]}\n")
            os.rename("held.new", "held")
            return


go_on_as(hold)
go_on_as(tell)
INIT, LOOKUP, FORGET, GETATTR, OPEN, BATCH_FORGET = 26, 1, 2, 3, 14, 42
opened = 0
while True:
    request = os.read(device, 1 << 20)
    _, kind, unique, node = struct.unpack_from("<IIQQ", request)

    def answer(data=b"", error=0):
        os.write(device, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)

    def attributes(node):
        mode = 0o40755 if node == 1 else 0o100755
        return struct.pack("<QQQQQQIIIIIIIIII", node, 8192, 16, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    if kind == INIT:
        answer(struct.pack("<IIIIHHIIHHI", 7, 31, 4096, 0, 12, 9, 65536, 1, 0, 0, 0) + b"\0" * 28)
    elif kind == LOOKUP:
        is_file = request[40:].rstrip(b"\0") == b"file"
        answer(struct.pack("<QQQQII", 2, 0, 60, 60, 0, 0) + attributes(2)) if is_file else answer(error=2)
    elif kind == GETATTR:
        answer(struct.pack("<QII", 60, 0, 0) + attributes(node))
    elif kind == OPEN:
        opened += 1
        KEEP_CACHE, DIRECT = 2, 1
        answer(struct.pack("<QII", opened, KEEP_CACHE | (DIRECT if opened == 2 else 0), 0))
    elif kind not in (FORGET, BATCH_FORGET, 15, 25, 36):
        answer(error=38)
