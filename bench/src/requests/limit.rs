//! The limit of leasing: a server that grants every client the same, and keeps nothing. What messages cost by themselves.

use super::clients::{self, BATCH, MESSAGE_MAX, Template};
use crate::Error;
use flowlane_dhcp6::{ALL_SERVERS, MessageType, SERVER_PORT, TransactionId};
use flowlane_lab::Link;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn6, recvmmsg, sendmmsg};
use std::{
    io::{IoSlice, IoSliceMut},
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How often it is looked whether it is to end.
const WAIT: Duration = Duration::from_millis(20);

/// A thread that answers, for as long as this lives.
pub(super) struct Limit {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Limit {
    /// Answers clients on a link.
    pub(super) fn start(link: &Link) -> Result<Self, Error> {
        let interface = link.index()?;
        let at = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, SERVER_PORT, 0, interface);
        let socket = link.netns().run(|| {
            let socket = UdpSocket::bind(at)?;
            socket.join_multicast_v6(&ALL_SERVERS, interface)?;
            socket.set_read_timeout(Some(WAIT)).map(|()| socket)
        })?;
        let socket = socket.map_err(Error::system("listen for clients"))?;
        clients::make_room(&socket)?;
        let (advertise, reply) = (Template::granted(MessageType::Advertise)?, Template::granted(MessageType::Reply)?);
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let work = move || {
            while !told.load(Ordering::Relaxed) {
                // What can not be answered is asked for again.
                let _ = answer_some(&socket, &advertise, &reply);
            }
        };
        let thread =
            thread::Builder::new().name("limit".into()).spawn(work).map_err(Error::system("start a thread"))?;
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Waits a moment for messages, and answers those that have come.
fn answer_some(socket: &UdpSocket, advertise: &Template, reply: &Template) -> nix::Result<()> {
    let mut buffer = vec![0; BATCH * MESSAGE_MAX];
    let mut parts: Vec<_> = buffer.chunks_mut(MESSAGE_MAX).map(|part| [IoSliceMut::new(part)]).collect();
    let mut headers = MultiHeaders::<SockaddrIn6>::preallocate(BATCH, None);
    let received = recvmmsg(socket.as_raw_fd(), &mut headers, parts.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
    let received: Vec<_> = received.map(|message| (message.bytes, message.address)).collect();
    let answers: Vec<(Vec<u8>, Option<SockaddrIn6>)> = buffer
        .chunks(MESSAGE_MAX)
        .zip(received)
        .filter_map(|(message, (length, from))| Some((answer(message.get(..length)?, advertise, reply)?, from)))
        .collect();
    let parts: Vec<_> = answers.iter().map(|(answer, _)| [IoSlice::new(answer)]).collect();
    let to: Vec<_> = answers.iter().map(|(_, to)| *to).collect();
    let mut headers = MultiHeaders::preallocate(answers.len(), None);
    sendmmsg(socket.as_raw_fd(), &mut headers, parts.iter(), to, [], MsgFlags::empty()).map(drop)
}

/// A Solicit without Rapid Commit is answered by an Advertise, all else by a Reply.
fn answer(message: &[u8], advertise: &Template, reply: &Template) -> Option<Vec<u8>> {
    let &[kind, a, b, c] = message.first_chunk()?;
    let is_offer = kind == MessageType::Solicit as u8 && !clients::is_rapid(message);
    let template = if is_offer { advertise } else { reply };
    Some(template.with(TransactionId([a, b, c]), clients::number(message)?))
}
