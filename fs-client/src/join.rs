//! `rampool join`.

use rampool_keys::join::NewMember;
use rampool_keys::machine_name;
use rampool_protocol::certs::Role;

use crate::args::JoinArgs;
use crate::failure::Failure;

/// Gets this machine its keys.
///
/// # Errors
/// There are keys already, or the token's server does not let it in.
pub(crate) fn join(args: &JoinArgs) -> Result<(), Failure> {
    let JoinArgs { token, name, keys } = args;
    let name = name.clone().unwrap_or_else(machine_name);
    NewMember::new(&name, Role::Client)?.join(token, keys)?;
    eprintln!(
        "rampool: {name} belongs to the pool of {}; its keys are in {}",
        token.address(),
        keys.display()
    );
    Ok(())
}
