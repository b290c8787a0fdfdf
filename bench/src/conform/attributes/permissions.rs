//! Extended attributes, ACLs, modes: who may do what, and what is kept.

use super::Script;

/// The scripts, each with its name.
pub(super) const SCRIPTS: &[Script] = &[
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
];
