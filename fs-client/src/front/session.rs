//! What is agreed with the kernel when a mount begins.

use fuser::{InitFlags, KernelConfig};

/// The longest read or write in one request; the kernel's own limit without more privileges.
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Requests that the kernel may send without anybody waiting for each.
const BACKGROUND_MAX: u16 = 64;

/// What we ask for, where the kernel offers it. Not for `FUSE_ATOMIC_O_TRUNC`: the open would empty
/// the file before the kernel sees that it is a program that runs (ETXTBSY). Without it the kernel
/// opens first, and then cuts the file to nothing.
const CAPABILITIES: [InitFlags; 9] = [
    // Parts of one large direct read or write travel at the same time.
    InitFlags::FUSE_ASYNC_DIO,
    // Look-ups and listings of one directory go on at the same time.
    InitFlags::FUSE_PARALLEL_DIROPS,
    // The kernel drops mapped pages of a file that was changed behind the mount.
    InitFlags::FUSE_AUTO_INVAL_DATA,
    // Listings bring the attributes along, when somebody wants them.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // Set-user-id bits are taken away here or by the source.
    InitFlags::FUSE_HANDLE_KILLPRIV,
    // The kernel looks at ACLs when it checks permissions.
    InitFlags::FUSE_POSIX_ACL,
    // The source applies the mask: it knows when a default ACL takes its place.
    InitFlags::FUSE_DONT_MASK,
    // Shared mappings of files that are past the page cache otherwise (Linux 6.6).
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// Asks for each capability on its own: asking for several fails if one is missing.
pub(super) fn negotiate(config: &mut KernelConfig) {
    for capability in CAPABILITIES {
        if config.add_capabilities(capability).is_err() {
            tracing::debug!(?capability, "the kernel does not offer it");
        }
    }
    // Each refuses only values out of its range, and then keeps its default.
    let _ = config.set_max_write(REQUEST_BYTES_MAX);
    let _ = config.set_max_background(BACKGROUND_MAX);
}
