//! The operations that there are, by the published description.

use crate::Error;
use hyper::Method;
use serde_json::Value;

/// The roles, the lowest first. A role may do everything that those before it may.
pub const ROLES: [&str; 3] = ["observe", "operate", "admin"];

/// An operation of the published description.
#[derive(Clone, Debug)]
pub struct Operation {
    /// How it is asked for.
    pub method: Method,
    path: String,
    /// The place among [`ROLES`] of the one that it takes.
    pub role: usize,
}

impl Operation {
    /// With these addresses in the places of the path's parameters.
    pub fn path(&self, flow: &str, receiver: &str) -> String {
        self.path.replace("{address}", flow).replace("{receiver}", receiver)
    }

    /// What is sent along: a request that says too little.
    pub fn body(&self) -> Option<&'static str> {
        (self.method == Method::POST).then_some("{}")
    }

    /// Repairs are part of an operation that takes less without.
    pub fn repair() -> Self {
        Self { method: Method::POST, path: "/v1/table/verify?repair=true".into(), role: 2 }
    }
}

/// All operations.
///
/// # Errors
/// [`Error::Description`] where the description names an operation without a role, or hardly any operations.
pub fn all() -> Result<Vec<Operation>, Error> {
    let text = include_str!("../../../docs/openapi.json");
    let description: Value = serde_json::from_str(text).map_err(|error| Error::Description(error.to_string()))?;
    let mut all = vec![Operation::repair()];
    for (path, item) in description["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let role = operation["security"][0]["role"][0].as_str();
            let role = ROLES.iter().position(|name| Some(*name) == role);
            let role = role.ok_or_else(|| Error::Description(format!("{method} {path} takes no role")))?;
            let method = method.to_uppercase().parse();
            let method = method.map_err(|_| Error::Description(format!("{path} has a method that is none")))?;
            all.push(Operation { method, path: path.clone(), role });
        }
    }
    if all.len() > 14 { Ok(all) } else { Err(Error::Description(format!("it names {} operations", all.len()))) }
}
