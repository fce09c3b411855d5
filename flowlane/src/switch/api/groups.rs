//! Groups at the local interface.

use super::{Address, Answer, Body, Failure, Switch, access::Caller};
use crate::{
    api::{
        Problem,
        groups::{AddReceivers, GroupView, OpenGroup},
    },
    switch::{command::Command, groups::GroupCommand},
};
use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use flowlane_wire::Mac;

/// All groups, by slot.
#[utoipa::path(
    get,
    path = "/v1/groups",
    responses((status = 200, body = Vec<GroupView>), (status = "default", body = Problem)),
    security(("role" = ["observe"]))
)]
pub(super) async fn groups(State(switch): State<Switch>) -> Answer<Vec<GroupView>> {
    switch.ask(|reply| Command::Group(GroupCommand::All(reply))).await
}

/// Lease the address of a group. The answer comes when the lease is durable.
#[utoipa::path(
    post,
    path = "/v1/groups",
    request_body = OpenGroup,
    responses((status = 201, body = GroupView), (status = "default", body = Problem)),
    security(("role" = ["operate"]))
)]
pub(super) async fn open_group(
    State(switch): State<Switch>,
    Extension(caller): Extension<Caller>,
    Body(mut request): Body<OpenGroup>,
) -> Result<(StatusCode, Json<GroupView>), Failure> {
    request.client.get_or_insert(caller.client);
    let group = switch.ask(|reply| Command::Group(GroupCommand::Open(request, reply))).await?;
    Ok((StatusCode::CREATED, group))
}

/// One group.
#[utoipa::path(
    get,
    path = "/v1/groups/{address}",
    params(("address" = String, Path, description = "The flow address of the group")),
    responses((status = 200, body = GroupView), (status = "default", body = Problem)),
    security(("role" = ["observe"]))
)]
pub(super) async fn group(State(switch): State<Switch>, address: Address) -> Answer<GroupView> {
    switch.ask(|reply| Command::Group(GroupCommand::One(address.0, reply))).await
}

/// End the lease of a group.
#[utoipa::path(
    delete,
    path = "/v1/groups/{address}",
    params(("address" = String, Path, description = "The flow address of the group")),
    responses((status = 200, body = GroupView), (status = "default", body = Problem)),
    security(("role" = ["operate"]))
)]
pub(super) async fn close_group(State(switch): State<Switch>, address: Address) -> Answer<GroupView> {
    switch.ask(|reply| Command::Group(GroupCommand::Close(address.0, reply))).await
}

/// Let receivers come: all of them, or none. The others are not disturbed.
#[utoipa::path(
    post,
    path = "/v1/groups/{address}/receivers",
    params(("address" = String, Path, description = "The flow address of the group")),
    request_body = AddReceivers,
    responses((status = 200, body = GroupView), (status = "default", body = Problem)),
    security(("role" = ["operate"]))
)]
pub(super) async fn add_receivers(
    State(switch): State<Switch>,
    address: Address,
    Body(request): Body<AddReceivers>,
) -> Answer<GroupView> {
    switch.ask(|reply| Command::Group(GroupCommand::Add(address.0, request.receivers, reply))).await
}

/// Let a receiver go. The others are not disturbed.
#[utoipa::path(
    delete,
    path = "/v1/groups/{address}/receivers/{receiver}",
    params(
        ("address" = String, Path, description = "The flow address of the group"),
        ("receiver" = String, Path, description = "The receiver, as it was named")
    ),
    responses((status = 200, body = GroupView), (status = "default", body = Problem)),
    security(("role" = ["operate"]))
)]
pub(super) async fn remove_receiver(
    State(switch): State<Switch>,
    Path((address, receiver)): Path<(String, String)>,
) -> Answer<GroupView> {
    let address: Mac =
        address.parse().map_err(|error| Failure::new("invalid", format!("{address:?} is no address: {error}")))?;
    switch.ask(|reply| Command::Group(GroupCommand::Remove(address, receiver, reply))).await
}
