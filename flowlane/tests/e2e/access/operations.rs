//! What the operations that there are could change.

use crate::api::Api;
use serde_json::{Value, json};

/// Everything that an operation could change, without what changes by itself.
pub fn state(api: &Api) -> Value {
    let mut state = json!(["/v1/flows", "/v1/groups", "/v1/table"].map(|path| api.get(path)));
    for entry in state.as_array_mut().expect("lists").iter_mut().flat_map(|list| list.as_array_mut().expect("a list")) {
        for counter in ["remaining", "packets", "bytes"] {
            entry.as_object_mut().expect("an object").remove(counter);
        }
        for receiver in entry["receivers"].as_array_mut().into_iter().flatten() {
            for counter in ["packets", "bytes"] {
                receiver.as_object_mut().expect("a receiver").remove(counter);
            }
        }
    }
    state
}
