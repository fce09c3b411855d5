//! The caller's side of groups.

use super::{Client, ClientError};
use crate::api::groups::{AddReceivers, GroupView, OpenGroup};
use flowlane_wire::Mac;
use hyper::Method;
use std::fmt::Write as _;

impl Client {
    /// Leases the address of a new group.
    ///
    /// # Errors
    /// As all others: [`ClientError`].
    pub async fn open_group(&mut self, request: &OpenGroup) -> Result<GroupView, ClientError> {
        self.post("/v1/groups", request).await
    }

    /// All groups, by slot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn groups(&mut self) -> Result<Vec<GroupView>, ClientError> {
        self.get("/v1/groups").await
    }

    /// One group.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn group(&mut self, address: Mac) -> Result<GroupView, ClientError> {
        self.get(&format!("/v1/groups/{address}")).await
    }

    /// Lets receivers come: all of them, or none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn add_receivers(&mut self, address: Mac, receivers: Vec<String>) -> Result<GroupView, ClientError> {
        self.post(&format!("/v1/groups/{address}/receivers"), &AddReceivers { receivers }).await
    }

    /// Lets a receiver go.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_receiver(&mut self, address: Mac, receiver: &str) -> Result<GroupView, ClientError> {
        let receiver = segment(receiver);
        self.request(Method::DELETE, &format!("/v1/groups/{address}/receivers/{receiver}"), Vec::new()).await
    }

    /// Ends the lease of a group. The group as it was.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn close_group(&mut self, address: Mac) -> Result<GroupView, ClientError> {
        self.request(Method::DELETE, &format!("/v1/groups/{address}"), Vec::new()).await
    }
}

/// A text as one segment of a path (RFC 3986 section 3.3).
fn segment(text: &str) -> String {
    text.bytes().fold(String::new(), |mut segment, octet| {
        if octet.is_ascii_alphanumeric() || b"-._~:@".contains(&octet) {
            segment.push(octet.into());
        } else {
            // A string takes whatever it is given.
            let _ = write!(segment, "%{octet:02X}");
        }
        segment
    })
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn an_interface_of_any_name_can_stand_in_a_path() {
        assert_eq!(segment("02:00:00:00:00:05@eth0.7"), "02:00:00:00:00:05@eth0.7");
        assert_eq!(segment("x@a#1%?ä"), "x@a%231%25%3F%C3%A4");
    }
}
