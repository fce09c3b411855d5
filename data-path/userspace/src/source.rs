//! Where a thread has its frames from.

use flowlane_ports::{
    PortError,
    af_packet::{Ring, RxFrame},
    af_xdp::Receiver,
};
use std::time::Duration;

/// A queue of incoming frames.
pub trait Source: Send {
    /// Whether the kernel takes over what comes next when the thread is told to stop, so that the last frame is in sight.
    const ENDS: bool;

    /// Waits until a frame is there (true) or the time is over (false).
    ///
    /// # Errors
    /// [`PortError::InterfaceDown`] now and then, after which frames may come again; [`PortError::InterfaceGone`] and
    /// others, after which none will.
    fn wait(&mut self, timeout: Duration) -> Result<bool, PortError>;

    /// Hands the frames that are there, one batch at most, to `handle`.
    fn receive(&mut self, handle: impl FnOnce(&mut [RxFrame<'_>]));

    /// Frames that were lost before they came here, since the start.
    ///
    /// # Errors
    /// [`PortError::System`] where the kernel does not answer.
    fn lost(&mut self) -> Result<u64, PortError>;
}

impl Source for Ring {
    /// It sees whatever comes in by the interface.
    const ENDS: bool = false;

    fn wait(&mut self, timeout: Duration) -> Result<bool, PortError> {
        Ring::wait(self, timeout)
    }

    fn receive(&mut self, handle: impl FnOnce(&mut [RxFrame<'_>])) {
        Ring::receive(self, handle);
    }

    fn lost(&mut self) -> Result<u64, PortError> {
        let statistics = self.statistics()?;
        Ok(statistics.dropped + statistics.truncated + statistics.unsupported)
    }
}

impl Source for Receiver {
    const ENDS: bool = true;

    fn wait(&mut self, timeout: Duration) -> Result<bool, PortError> {
        Receiver::wait(self, timeout)
    }

    fn receive(&mut self, handle: impl FnOnce(&mut [RxFrame<'_>])) {
        Receiver::receive(self, handle);
    }

    fn lost(&mut self) -> Result<u64, PortError> {
        Receiver::lost(self)
    }
}
