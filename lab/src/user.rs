//! Other users: a process that becomes root of a user namespace of its own, and work without privileges.

use crate::Netns;
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use std::path::Path;
use std::{fs, io};

/// Why the process could not become root of a user namespace. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserNamespaceError {
    /// The process has several threads.
    #[error(
        "a process with several threads can not enter a user namespace: call enter_user_namespace first thing in main"
    )]
    Threads,
    /// `kernel.unprivileged_userns_clone` is 0.
    #[error("this system keeps user namespaces for root: run as root, or `sysctl kernel.unprivileged_userns_clone=1`")]
    Disabled,
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1.
    #[error(
        "AppArmor keeps user namespaces for some programs: run as root, allow this program by a profile with `userns,`, \
         or `sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
    )]
    AppArmor,
    /// `user.max_user_namespaces` or `user.max_net_namespaces` is reached or 0, or user namespaces are nested too deep.
    #[error(
        "there are no more user or network namespaces to be had: run as root, or raise \
         `sysctl user.max_user_namespaces user.max_net_namespaces`"
    )]
    Limit,
    /// The kernel has no user namespaces.
    #[error("this kernel has no user namespaces: run as root, or use a kernel with CONFIG_USER_NS")]
    Unsupported,
    /// The kernel refused for another reason, mostly a container's system call filter.
    #[error(
        "the kernel refused {step}: {reason}; run as root, and in a container allow unshare(2) \
         (docker: --security-opt seccomp=unconfined)"
    )]
    Refused {
        /// The step that failed.
        step: &'static str,
        /// The kernel's answer.
        reason: io::Error,
    },
    /// The namespace exists, its loopback could not be set up.
    #[error("the new network namespace can not be used: {0}")]
    Network(Box<crate::Error>),
}

/// Moves the process into a new user and network namespace where it is root, with the loopback up.
///
/// Its rights outside do not grow: files belong to the same user as before. Inside, network namespaces, interfaces and
/// raw sockets are free to use. Must be called before the process starts a thread (an async runtime starts some).
///
/// # Errors
/// A [`UserNamespaceError`] that names the setting which forbids it.
pub fn enter_user_namespace() -> Result<(), UserNamespaceError> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|errno| why("unshare", errno.into()))?;
    // Without the right to change groups the kernel accepts a group map only after this, user_namespaces(7).
    map("/proc/self/setgroups", "deny")?;
    map("/proc/self/uid_map", &format!("0 {user} 1"))?;
    map("/proc/self/gid_map", &format!("0 {group} 1"))?;
    loopback_up().map_err(|error| UserNamespaceError::Network(Box::new(error)))
}

/// Does some work as another user with these groups, the first of which is its own, and without any privileges: in a
/// thread of its own, for a thread can not become root again.
///
/// # Errors
/// The kernel's, unless the caller is root.
///
/// # Panics
/// As the work does.
pub fn as_user<T: Send>(user: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| become_user(user, groups).map(|()| work()));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// By the system calls themselves: the C library would change all threads.
fn become_user(user: u32, groups: &[u32]) -> io::Result<()> {
    let own = groups.first().copied().unwrap_or(user);
    // SAFETY: the kernel reads as many groups as are said to be there, and the other calls take numbers only.
    let done = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
            libc::syscall(libc::SYS_setresgid, own, own, own),
            libc::syscall(libc::SYS_setresuid, user, user, user),
        ]
    };
    done.into_iter().try_for_each(|done| Errno::result(done).map(drop))?;
    Ok(())
}

fn map(file: &'static str, text: &str) -> Result<(), UserNamespaceError> {
    fs::write(file, text).map_err(|reason| why(file, reason))
}

fn loopback_up() -> crate::Result<()> {
    Netns::current()?.link("lo")?.up()
}

/// The kernel's answers are few and vague; the settings tell which one was meant.
fn why(step: &'static str, reason: io::Error) -> UserNamespaceError {
    match reason.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EINVAL) if threads() > 1 => UserNamespaceError::Threads,
        Some(Errno::EINVAL) if !Path::new("/proc/self/ns/user").exists() => UserNamespaceError::Unsupported,
        Some(Errno::ENOSPC | Errno::EUSERS) => UserNamespaceError::Limit,
        Some(Errno::EPERM | Errno::EACCES) if setting("unprivileged_userns_clone", "0") => UserNamespaceError::Disabled,
        Some(Errno::EPERM | Errno::EACCES) if setting("apparmor_restrict_unprivileged_userns", "1") => {
            UserNamespaceError::AppArmor
        }
        _ => UserNamespaceError::Refused { step, reason },
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

fn setting(name: &str, value: &str) -> bool {
    let path = Path::new("/proc/sys/kernel").join(name);
    fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
}
