//! Who may do what: every operation of the description names the role that it takes, and no other list does.

use super::Failure;
use crate::config::Role;
use axum::{
    Extension,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, header::CONNECTION},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use utoipa::openapi::OpenApi;

/// The name of the scheme by which operations name their role (OpenAPI 3.1, security requirement object).
pub const SCHEME: &str = "role";

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose the leases are that it asks for without a client's name.
    pub client: String,
    /// For messages: `user 1000`, `certificate ab12..`.
    pub who: String,
    /// Nothing where nobody has given it one.
    pub role: Option<Role>,
}

impl Caller {
    /// Whether it has the role, or a higher one.
    ///
    /// # Errors
    /// `denied`, with what to do about it.
    pub(super) fn may(&self, needed: Role) -> Result<(), Failure> {
        if self.role >= Some(needed) {
            return Ok(());
        }
        let has = self.role.map_or("none".to_owned(), |role| format!("`{}`", role.name()));
        let (who, needed) = (&self.who, needed.name());
        Err(Failure::new("denied", format!("this takes the role `{needed}`, and {who} has {has} at this switch")))
    }
}

/// The role that each operation takes, and what was denied.
#[derive(Default)]
pub struct Access {
    roles: HashMap<(String, Method), Role>,
    denials: Mutex<Denials>,
}

impl Access {
    /// As the description has it. An operation that names no role is left out, and so takes [`Role::Admin`].
    pub fn of(description: &OpenApi) -> Self {
        let description = serde_json::to_value(description).unwrap_or_default();
        let operations = operations(&description).filter_map(|(path, method, operation)| {
            let method = method.to_ascii_uppercase().parse().ok()?;
            Some(((path.to_owned(), method), role_of(operation)?))
        });
        Self { roles: operations.collect(), denials: Mutex::default() }
    }

    fn role(&self, path: Option<&MatchedPath>, method: &Method) -> Role {
        let method = if method == Method::HEAD { Method::GET } else { method.clone() };
        let known = path.and_then(|path| self.roles.get(&(path.as_str().to_owned(), method)));
        known.copied().unwrap_or(Role::Admin)
    }

    /// Logs it; not more often than a log can bear.
    fn denied(&self, caller: &Caller, method: &Method, path: &str) {
        let mut denials = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unlogged) = denials.next(Instant::now()) {
            let path: String = path.chars().take(PATH_LOGGED).collect();
            tracing::warn!(caller = caller.who, %method, path, unlogged, "denied");
        }
    }
}

/// Lets a request pass if its caller may, before anything else of it is looked at.
pub async fn authorize(
    State(access): State<Arc<Access>>,
    Extension(caller): Extension<Caller>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let Err(failure) = caller.may(access.role(path.as_ref(), request.method())) else {
        return next.run(request).await;
    };
    access.denied(&caller, request.method(), request.uri().path());
    let mut response = failure.into_response();
    if caller.role.is_none() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The path, method and object of each operation of a description.
pub fn operations(description: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = description["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        let operations = item.as_object().into_iter().flatten().filter(|(_, value)| value["operationId"].is_string());
        operations.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

/// The role that an operation of the description takes.
pub fn role_of(operation: &Value) -> Option<Role> {
    serde_json::from_value(operation["security"][0][SCHEME][0].clone()).ok()
}

/// How much of a denied path is logged, in characters.
const PATH_LOGGED: usize = 128;
/// How often a denial is logged.
const LOGGED: Duration = Duration::from_secs(1);

/// Denials that nobody has been told of.
#[derive(Default)]
struct Denials {
    logged: Option<Instant>,
    unlogged: u64,
}

impl Denials {
    /// How many went unlogged before this one, if it is to be logged.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.logged.is_some_and(|logged| now.duration_since(logged) < LOGGED) {
            self.unlogged += 1;
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_includes_those_before_it() {
        let caller = |role| Caller { client: String::new(), who: "user 7".into(), role };
        for (has, needed, may) in [
            (Some(Role::Admin), Role::Observe, true),
            (Some(Role::Operate), Role::Operate, true),
            (Some(Role::Operate), Role::Admin, false),
            (Some(Role::Observe), Role::Operate, false),
            (None, Role::Observe, false),
        ] {
            assert_eq!(caller(has).may(needed).is_ok(), may, "{has:?} for {needed:?}");
        }
        let Err(Failure(problem)) = caller(None).may(Role::Operate) else { panic!("it may not") };
        assert_eq!(problem.code, "denied");
        assert!(problem.message.contains("`operate`") && problem.message.contains("user 7"), "{}", problem.message);
    }

    #[test]
    fn denials_do_not_flood_the_log() {
        let (mut denials, start) = (Denials::default(), Instant::now());
        assert_eq!(denials.next(start), Some(0));
        assert_eq!([denials.next(start), denials.next(start + LOGGED / 2)], [None, None]);
        assert_eq!(denials.next(start + LOGGED), Some(2));
    }
}
