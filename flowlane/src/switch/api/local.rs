//! The UNIX socket: the kernel says who is at the other end.

use super::{ServeError, access::Caller, connections::Connections};
use crate::config::{AccessConfig, Role};
use flowlane_host::server::peer;
use nix::unistd::geteuid;
use std::{
    convert::Infallible,
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    time::sleep,
};

/// A listening socket. It is removed when this is dropped.
pub struct Local {
    listener: UnixListener,
    access: AccessConfig,
    _remove: Remove,
}

impl Local {
    /// Listens. The directory is made (mode 0755) where it is missing. A socket that a dead switch has left is replaced.
    /// Where nobody but root has a role, nobody else may connect (mode 0600); else everybody may, and is asked for the
    /// role (0666).
    ///
    /// # Errors
    /// [`ServeError::Running`] where a live switch answers on the socket, [`ServeError::Listen`] where there can be none.
    pub async fn listen(socket: &Path, access: AccessConfig) -> Result<Self, ServeError> {
        if UnixStream::connect(socket).await.is_ok() {
            return Err(ServeError::Running { socket: socket.to_owned() });
        }
        let mode = if access.names_anybody() { 0o666 } else { 0o600 };
        let (listener, remove) =
            listen(socket, mode).map_err(|source| ServeError::Listen { socket: socket.to_owned(), source })?;
        Ok(Self { listener, access, _remove: remove })
    }

    /// Takes callers for ever.
    pub async fn serve(&self, connections: &Connections) -> Infallible {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if let Ok(caller) = self.caller(&stream) {
                        connections.add(stream, caller);
                    }
                }
                // Out of descriptors, most likely: some will be free soon.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn caller(&self, stream: &UnixStream) -> io::Result<Caller> {
        let found = peer(stream)?;
        let user = found.peer.user;
        let role = match user {
            0 => Some(Role::Admin),
            own if own == geteuid().as_raw() => Some(Role::Admin),
            _ => self.access.role(user, &found.groups),
        };
        Ok(Caller { client: process_name(found.peer.pid), who: format!("user {user}"), role })
    }
}

/// Numbers of processes come again; a number with its start does not.
pub fn process_name(pid: i32) -> String {
    // Field 22 of proc_pid_stat(5), counted from behind the command, which may contain anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let started = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(19)).unwrap_or("0");
    format!("process {pid} of {started}")
}

/// Listens. The socket appears under its name with its mode already set, in the place of one that nobody listens on.
fn listen(socket: &Path, mode: u32) -> io::Result<(UnixListener, Remove)> {
    let directory = socket.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let new = directory.join(format!(".new-{}.sock", std::process::id()));
    remove_file(&new)?;
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(mode))?;
    let inode = fs::metadata(&new)?.ino();
    fs::rename(&new, socket)?;
    Ok((listener, Remove { socket: socket.to_owned(), inode }))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the socket when dropped, unless it is a successor's by then.
struct Remove {
    socket: PathBuf,
    inode: u64,
}

impl Drop for Remove {
    fn drop(&mut self) {
        if fs::metadata(&self.socket).is_ok_and(|found| found.ino() == self.inode) {
            // What is left of it, the next switch replaces.
            let _ = fs::remove_file(&self.socket);
        }
    }
}
