//! What the other suites leave out: ACLs, extended attributes, unusual calls. Small scripts, whose
//! words must be the same on the source and through the mount.
//!
//! Left out is what the kernel does not pass on to any FUSE filesystem, or the `fuser` crate cannot
//! take: files without a name (O_TMPFILE), flags of files (chattr), collapsing and inserting ranges.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::site::Site;
use super::suite::{Case, Scene, Suite, Verdict};
use super::tool::{Need, Running};

const LIMIT: Duration = Duration::from_secs(60);

/// Before each script, which starts in an empty directory.
const PRELUDE: &str = r#"
umask 022
exec 2>&1
export LC_ALL=C
as() { user=$1; shift; setpriv --reuid "$user" --regid "$user" --clear-groups "$@"; }
"#;

const SCRIPTS: &[(&str, &str)] = &[
    (
        "extended attributes are set, read, listed and removed",
        r#"
touch f; setfattr -n user.short -v 1 f; setfattr -n user.long -v "$(seq 400 | tr -d '\n')" f
setfattr -n trusted.t -v t f; setfattr -n security.s -v s f
getfattr -d -m - f; setfattr -x user.short f; getfattr -d -m - f; getfattr -n user.none f"#,
    ),
    (
        "cp -a and tar keep extended attributes",
        r#"
touch f; setfattr -n user.a -v value f; cp -a f g; getfattr -d g
tar --xattrs -cf t.tar f; mkdir d; tar --xattrs --xattrs-include='*' -xf t.tar -C d; getfattr -d d/f"#,
    ),
    (
        "an ACL denies what the mode grants",
        r#"
echo secret > f; chmod 644 f; setfacl -m u:daemon:---,g::r,o::r f; as daemon cat f
chmod 755 .; mkdir d; chmod 755 d; setfacl -m u:daemon:---,g::rx,o::rx d; as daemon ls d"#,
    ),
    (
        "an ACL grants what the mode denies",
        r#"
chmod 755 .; echo open > f; chmod 600 f; setfacl -m u:daemon:rw f; as daemon cat f
as daemon sh -c 'echo more >> f'; cat f
mkdir d; setfacl -m u:daemon:rwx d; as daemon touch d/new; ls d"#,
    ),
    (
        "an ACL for a group is honoured",
        r#"
chmod 755 .; echo open > f; chmod 600 f; setfacl -m g:games:r f; chown root:root f
setpriv --reuid daemon --regid daemon --groups 60 cat f
setfacl -m g:games:--- f; chmod 604 f; setfacl -m g:games:---,m::r f
setpriv --reuid daemon --regid daemon --groups 60 cat f"#,
    ),
    (
        "a default ACL is inherited, and the umask does not count",
        r#"
mkdir d; setfacl -d -m u:daemon:rwx,g::rwx,o::rwx d; touch d/f; mkdir d/sub; mknod d/p p
stat -c '%a %n' d/f d/sub d/p; getfacl -cp d/f d/sub; mkdir -m 700 d/m; stat -c %a d/m"#,
    ),
    (
        "the umask counts where there is no default ACL",
        r#"
umask 027; touch f; mkdir d; mknod p p; mkdir -m 777 m; stat -c '%a %n' f d p m"#,
    ),
    (
        "mode and ACL follow each other",
        r#"
touch f; setfacl -m u:daemon:rwx f; stat -c %a f; chmod 600 f; getfacl -cp f; setfacl -b f; stat -c %a f
getfacl -cp f"#,
    ),
    (
        "copies keep ACLs",
        r#"
touch f; setfacl -m u:daemon:rw f; cp -a f g; getfacl -cp g; mv g h; getfacl -cp h"#,
    ),
    (
        "set-user-id and set-group-id go with a write by others",
        r#"
chmod 755 .; for mode in 4777 2777 6777 2767; do echo x > f; chmod $mode f; as daemon sh -c 'echo y >> f'
stat -c %a f; chmod $mode f; as daemon truncate -s 1 f; stat -c %a f; rm f; done
touch f; chmod 6755 f; echo x > f; stat -c %a f; chown daemon f; stat -c %a f"#,
    ),
    (
        "a directory's group is inherited",
        r#"
mkdir d; chown daemon:games d; chmod 2777 d; touch d/f; mkdir d/sub; as daemon touch d/g
as nobody sh -c 'umask 0; touch d/h' ; stat -c '%a %U %G %n' d/f d/sub d/g"#,
    ),
    (
        "a sticky directory keeps others' files",
        r#"
chmod 755 .; mkdir d; chmod 1777 d; touch d/f; chmod 666 d/f; as daemon rm -f d/f; as daemon mv d/f d/g; ls d"#,
    ),
    (
        "capabilities of a file are kept, and go with a write",
        r#"
cp /bin/true f; setcap cap_net_raw+ep f; getcap f; echo >> f; getcap f"#,
    ),
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
os.write(fd, os.urandom(1) * 1048576); os.fsync(fd)
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
head -c 1000000 /dev/zero > f; sync f; stat -c '%s %b %B' f; truncate -s 10M g; stat -c '%s %b' g; fallocate -l 2M h; stat -c '%s %b' h"#,
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
];

/// The suite.
pub(super) struct Attributes;

impl Suite for Attributes {
    fn name(&self) -> &'static str {
        "attributes"
    }

    fn needs(&self) -> Vec<Need> {
        ["setfattr", "setfacl", "setcap", "setpriv", "chattr", "flock", "python3"]
            .map(Need::of)
            .into()
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        SCRIPTS
            .iter()
            .map(|(name, script)| {
                let dir = site.dir().join("script");
                fs::create_dir(&dir)?;
                let mut command = Command::new("sh");
                command.arg("-c").arg(format!("{PRELUDE}{script}")).current_dir(&dir);
                let ended =
                    Running::start(command, &site.aside("output"))?.wait(LIMIT, scene.stop)?;
                let verdict = if ended.late {
                    Verdict::Failed(ended.result().err().unwrap_or_default())
                } else {
                    Verdict::Says(ended.output)
                };
                fs::remove_dir_all(&dir)?;
                Ok(Case { name: (*name).to_owned(), verdict })
            })
            .collect()
    }
}
