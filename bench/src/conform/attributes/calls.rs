//! Calls that the suites of others leave out, and what many do at once.

use super::Script;

/// The scripts, each with its name.
pub(super) const SCRIPTS: &[Script] = &[
    (
        "renaming with exchange and without replacing",
        r#"
python3 - <<'P'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags):
    result = libc.renameat2(-100, a.encode(), -100, b.encode(), flags)
    print(a, b, flags, 'ok' if result == 0 else os.strerror(ctypes.get_errno()))
for name in 'ab': open(name, 'w').write(name)
os.mkdir('d'); open('d/x', 'w').write('x')
keep = open('a')
rename('a', 'b', 1); rename('a', 'b', 2); print(open('a').read(), open('b').read(), keep.read())
rename('a', 'd', 2); print(open('d').read(), os.listdir('a')); rename('a', 'none', 2); rename('d', 'new', 1)
rename('a', 'b', 3); rename('new', 'white', 4); print(sorted(os.listdir('.')))
P"#,
    ),
    (
        "holes are found, punched and zeroed",
        r#"
python3 - <<'P'
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
fd = os.open('f', os.O_RDWR | os.O_CREAT)
os.write(fd, b'x' * 1048576); os.fsync(fd)
for mode, at, length in [(3, 65536, 65536), (16, 200000, 100000), (1, 1048576, 65536), (3, 5, 7), (17, 1048576, 9), (0, 1048570, 100), (3, 0, 0)]:
    result = libc.fallocate(fd, mode, at, length)
    print(mode, at, length, 'ok' if result == 0 else os.strerror(ctypes.get_errno()), os.fstat(fd).st_size)
os.fsync(fd)
for whence in (os.SEEK_DATA, os.SEEK_HOLE):
    for at in (0, 65536, 70000, 2000000):
        try: print(os.lseek(fd, at, whence))
        except OSError as error: print(error.strerror)
data = os.pread(fd, 2000000, 0); print(len(data), data.count(0))
P"#,
    ),
    (
        "times are set to the nanosecond, and to now",
        r#"
python3 - <<'P'
import os
open('f', 'w').close()
for times in [(1, 2), (10**18 + 123456789, 5), (0, 4294967296 * 10**9 + 1)]:
    os.utime('f', ns=times); s = os.stat('f'); print(s.st_atime_ns, s.st_mtime_ns)
before = os.stat('f').st_ctime_ns; os.chmod('f', 0o600); print(os.stat('f').st_ctime_ns >= before)
P"#,
    ),
    (
        "appenders do not overwrite each other",
        r#"
for i in 1 2 3 4; do (for j in $(seq 200); do echo "$i $j" >> f; done) & done; wait
sort f | uniq -c | awk '$1 != 1' ; wc -l < f"#,
    ),
    (
        "locks exclude",
        r#"
touch f; flock f sh -c 'flock -n f echo got || echo refused'
python3 - <<'P'
import fcntl, os
fd = os.open('f', os.O_RDWR); fcntl.lockf(fd, fcntl.LOCK_EX, 10, 5)
if os.fork() == 0:
    other = os.open('f', os.O_RDWR)
    for start in (0, 5, 20):
        try: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, start); print(start, 'got', flush=True)
        except OSError as error: print(start, error.strerror, flush=True)
    os._exit(0)
os.wait()
P"#,
    ),
    (
        "a program that runs cannot be written, and the other way",
        r#"
cp /bin/sleep f; ./f 5 & sleep 0.2; sh -c 'echo >> f'; kill $!; wait
exec 3>>f; ./f 0; echo $?; exec 3>&-; ./f 0; echo $?"#,
    ),
    (
        "unusual names",
        r#"
touch "$(printf 'a\nb')" "$(printf '\377\376')" ' ' '*' "$(head -c 255 /dev/zero | tr '\0' n)"; ls -b | cut -c1-80
touch "$(head -c 256 /dev/zero | tr '\0' n)"; ls | wc -l; mkdir .a; touch .a/...; ls -A .a"#,
    ),
    (
        "a directory of thousands while it is changed",
        r#"
python3 - <<'P'
import os
os.mkdir('d')
for i in range(3000): open('d/%d' % i, 'w').close()
seen = []
for entry in os.scandir('d'):
    seen.append(entry.name)
    os.unlink('d/' + entry.name)
print(len(seen), len(set(seen)), os.listdir('d'))
P"#,
    ),
    (
        "what is open lives on after its name and its directory",
        r#"
python3 - <<'P'
import os
os.mkdir('d'); fd = os.open('d/f', os.O_RDWR | os.O_CREAT); os.write(fd, b'12345')
os.unlink('d/f'); d = os.open('d', os.O_RDONLY); os.rmdir('d')
print(os.pread(fd, 10, 0), os.fstat(fd).st_nlink, os.pwrite(fd, b'x' * 100000, 70000), os.fstat(fd).st_size)
os.fchmod(fd, 0o640); os.ftruncate(fd, 3); print(oct(os.fstat(fd).st_mode), os.pread(fd, 10, 0), os.listdir(d))
os.utime(fd, (5, 6)); print(os.fstat(fd).st_mtime); os.setxattr(fd, 'user.a', b'1'); print(os.getxattr(fd, 'user.a'))
try: os.open('f', os.O_CREAT, dir_fd=d)
except OSError as error: print(error.strerror)
P"#,
    ),
    (
        "opened by a descriptor's path, with other rights",
        r#"
python3 - <<'P'
import os
fd = os.open('f', os.O_WRONLY | os.O_CREAT, 0o200); os.write(fd, b'abc')
again = os.open('/proc/self/fd/%d' % fd, os.O_RDONLY); print(os.read(again, 5))
try: os.read(fd, 1)
except OSError as error: print(error.strerror)
path = os.open('f', os.O_PATH); print(os.fstat(path).st_size)
os.chdir('.'); print(os.readlink('/proc/self/fd/%d' % path).endswith('/f'))
P"#,
    ),
    (
        "direct and synchronous writes, whole blocks and not",
        r#"
python3 - <<'P'
import mmap, os
buffer = mmap.mmap(-1, 65536); buffer.write(b'd' * 65536)
fd = os.open('f', os.O_RDWR | os.O_CREAT | os.O_DIRECT)
print(os.pwritev(fd, [memoryview(buffer)[:8192]], 0), os.pwritev(fd, [memoryview(buffer)[:65536]], 4096))
other = os.open('f', os.O_RDWR | os.O_SYNC); print(os.pwrite(other, b'odd', 4095))
print(os.pread(other, 10, 4090), os.preadv(fd, [buffer], 65536), os.fstat(fd).st_size)
appending = os.open('f', os.O_WRONLY | os.O_APPEND); print(os.pwrite(appending, b'end', 0), os.fstat(fd).st_size, os.pread(other, 9, 69630))
P"#,
    ),
    (
        "free space and limits are the source's",
        r#"
python3 - <<'P'
import os
v = os.statvfs('.'); print(v.f_bsize, v.f_frsize, v.f_blocks, v.f_files, v.f_namemax)
for name in ('PC_NAME_MAX', 'PC_PATH_MAX', 'PC_PIPE_BUF'): print(name, os.pathconf('.', name))
fd = os.open('f', os.O_RDWR | os.O_CREAT)
for at in (2**43, 2**44 - 4097, 2**44 - 1, 2**62):
    try: print(os.pwrite(fd, b'x', at), os.fstat(fd).st_size)
    except OSError as error: print(error.strerror)
P"#,
    ),
    (
        "blocks are counted",
        r#"
# To the nearest 64 KiB: how many blocks the filesystem takes for itself depends on where it finds room.
count() { sync "$1"; stat -c '%s %b' "$1" | awk '{ print $1, int(($2 + 64) / 128) }'; }
head -c 1000000 /dev/zero > f; count f; truncate -s 10M g; count g; fallocate -l 2M h; count h"#,
    ),
    (
        "pipes, sockets and devices",
        r#"
mkfifo p; (echo through > p &) ; cat p; mknod n c 1 3; stat -c '%F %t %T' n p
python3 - <<'P'
import os, socket
s = socket.socket(socket.AF_UNIX); s.bind('s'); s.listen(1)
c = socket.socket(socket.AF_UNIX); c.connect('s'); print('connected'); os.unlink('s')
P"#,
    ),
    (
        "changes are seen by those who watch",
        r#"
python3 - <<'P'
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(os.O_NONBLOCK); libc.inotify_add_watch(fd, b'.', 0x3ff & ~0x31)
open('f', 'w').write('x'); os.rename('f', 'g'); os.chmod('g', 0o600); os.unlink('g'); os.mkdir('d'); os.rmdir('d')
data = os.read(fd, 65536); at = 0
while at < len(data):
    _, mask, _, length = struct.unpack_from('iIII', data, at)
    print(hex(mask), data[at + 16:at + 16 + length].rstrip(b'\0')); at += 16 + length
P"#,
    ),
    (
        "a place in a directory can be returned to",
        r#"
python3 - <<'P'
import ctypes, os, random
libc = ctypes.CDLL(None)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.readdir.argtypes = libc.telldir.argtypes = libc.rewinddir.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long; libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
os.mkdir('d')
for i in range(2000): open('d/%d' % i, 'w').close()
d = libc.opendir(b'd')
def name():
    entry = libc.readdir(d)
    return entry and ctypes.string_at(entry + 19)
places = []
while True:
    place = libc.telldir(d); entry = name()
    if not entry: break
    places.append((place, entry))
random.seed(1); wrong = 0
for place, entry in random.sample(places, 200):
    libc.seekdir(d, place); wrong += name() != entry
open('d/new', 'w').close(); libc.rewinddir(d); seen = set()
while entry := name(): seen.add(entry)
print(len(places), wrong, len(seen), b'new' in seen)
P"#,
    ),
    (
        "thousands of files are open, half of them without a name",
        r#"
python3 - <<'P'
import os, resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)); files = []
for i in range(min(3000, limit - 100)):
    files.append(os.open(str(i), os.O_RDWR | os.O_CREAT)); os.write(files[i], b'%d' % i)
    if i % 2: os.unlink(str(i))
print(sum(os.pread(fd, 9, 0) == b'%d' % i for i, fd in enumerate(files)) == len(files))
print({os.fstat(fd).st_nlink for fd in files[::2]}, {os.fstat(fd).st_nlink for fd in files[1::2]})
P"#,
    ),
    (
        "a limit on the size of files holds",
        r#"
python3 - <<'P'
import os, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
fd = os.open('f', os.O_RDWR | os.O_CREAT)
for act in (lambda: os.pwrite(fd, b'x' * 5000, 8000), lambda: os.pwrite(fd, b'x', 10000), lambda: os.ftruncate(fd, 20000), lambda: os.posix_fallocate(fd, 0, 20000)):
    try: print(act(), os.fstat(fd).st_size)
    except OSError as error: print(error.strerror)
P"#,
    ),
    (
        "mappings, shared and private, beside calls",
        r#"
python3 - <<'P'
import mmap, os
fd = os.open('f', os.O_RDWR | os.O_CREAT); os.write(fd, b'hello' * 2000)
private = mmap.mmap(fd, 0, mmap.MAP_PRIVATE); private[0:3] = b'PRI'; print(os.pread(fd, 5, 0))
shared = mmap.mmap(fd, 0); shared[0:3] = b'SHR'; print(os.pread(fd, 5, 0), private[0:5])
os.pwrite(fd, b'calls', 5000); print(shared[4998:5008]); os.ftruncate(fd, 4097); os.ftruncate(fd, 9000)
print(shared[4096:4100], os.pread(fd, 4, 4096)); shared[8999:9000] = b'!'; os.fsync(fd); print(open('f', 'rb').read()[8990:])
reader = os.open('f', os.O_RDONLY); os.unlink('f'); shared[0:1] = b'?'; print(os.pread(reader, 3, 0))
P"#,
    ),
    (
        "bytes are copied within a file, and through pipes",
        r#"
python3 - <<'P'
import os
fd = os.open('f', os.O_RDWR | os.O_CREAT); os.write(fd, bytes(range(250)) * 40)
for length, start, to in ((100, 0, 50), (100, 0, 5000), (9000, 500, 100000), (10, 200000, 0)):
    try: print(os.copy_file_range(fd, fd, length, start, to), os.fstat(fd).st_size)
    except OSError as error: print(error.strerror)
r, w = os.pipe(); print(os.splice(fd, w, 4000, offset_src=99), hash(os.read(r, 5000)) != 0)
os.write(w, b'spliced'); print(os.splice(r, fd, 7, offset_dst=3), os.pread(fd, 12, 0))
other = os.open('g', os.O_WRONLY | os.O_CREAT); print(os.sendfile(other, fd, 0, 5000), os.stat('g').st_size)
P"#,
    ),
];
