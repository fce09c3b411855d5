//! A CycloneDX document, <https://cyclonedx.org/docs/1.5/json/>.

use super::lock::Package;
use crate::error::Error;
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path};

/// A document of one binary.
#[derive(Clone, Debug, PartialEq)]
pub struct Document(Value);

impl Document {
    /// A document without what differs from machine to machine, and from one time to the next unless it is to say when it was
    /// made.
    pub fn read(text: &str, root: &Path, dated: bool) -> Result<Self, Error> {
        let mut value: Value = serde_json::from_str(text).map_err(Error::json("the document"))?;
        if let Some(document) = value.as_object_mut() {
            document.remove("serialNumber");
        }
        if let Some(metadata) = value["metadata"].as_object_mut().filter(|_| !dated) {
            metadata.remove("timestamp");
        }
        // Which targets the package has, and where their sources are, is no matter of what it is made of.
        if let Some(component) = value["metadata"]["component"].as_object_mut() {
            component.remove("components");
        }
        // Packages of this repository are known by their paths.
        let root = root.to_string_lossy();
        each_text(&mut value, &mut |text| {
            if text.contains(&*root) {
                *text = text.replace(&*root, "");
            }
        });
        Ok(Self(value))
    }

    /// Adds files that are inside of the binary, with their SHA-256, and what they were made of.
    pub fn embed(&mut self, files: &[(&str, String)], made_of: Self) {
        let Self(mut inner) = made_of;
        let source = inner["metadata"]["component"].take();
        let (ours, theirs) = (self.0["metadata"]["component"]["bom-ref"].clone(), source["bom-ref"].clone());
        let mut components = list(&mut inner["components"]);
        let mut dependencies = list(&mut inner["dependencies"]);
        for (file, sha256) in files {
            let hashes = json!([{ "alg": "SHA-256", "content": sha256 }]);
            components.push(json!({ "type": "file", "bom-ref": file, "name": file, "hashes": hashes }));
            dependencies.push(json!({ "ref": ours, "dependsOn": [file] }));
            dependencies.push(json!({ "ref": file, "dependsOn": [theirs] }));
        }
        components.push(source);
        merge(&mut self.0["components"], components, "bom-ref");
        merge(&mut self.0["dependencies"], dependencies, "ref");
    }

    /// Whether all packages that are linked are in it with all that must be known of them.
    ///
    /// # Errors
    /// [`Error::Sbom`] names the first that is not.
    pub fn check(&self, linked: &BTreeSet<Package>) -> Result<(), Error> {
        let of_all = self.0["components"].as_array().into_iter().flatten();
        let components: Vec<_> = of_all.chain([&self.0["metadata"]["component"]]).collect();
        for package in linked {
            let Package { name, version, checksum } = package;
            let is_it = |component: &&&Value| component["name"] == **name && component["version"] == **version;
            let component = components.iter().find(is_it);
            let lack = match component {
                None => "is not in the document",
                Some(component) if !has_checksum(component, checksum.as_deref()) => "has not the lock file's checksum",
                Some(component) if component["licenses"].as_array().is_none_or(Vec::is_empty) => "has no licence",
                Some(component) if !component["purl"].as_str().is_some_and(|purl| purl.starts_with("pkg:cargo/")) => {
                    "has no package URL"
                }
                Some(_) => continue,
            };
            return Err(Error::Sbom(format!("{name} {version} {lack}")));
        }
        Ok(())
    }

    /// As it is written.
    pub fn to_text(&self) -> Result<String, Error> {
        serde_json::to_string_pretty(&self.0).map(|text| text + "\n").map_err(Error::json("the document"))
    }
}

/// Packages of this repository have none.
fn has_checksum(component: &Value, expected: Option<&str>) -> bool {
    let sha256 = |hash: &&Value| hash["alg"] == "SHA-256";
    let hash = component["hashes"].as_array().into_iter().flatten().find(sha256);
    hash.and_then(|hash| hash["content"].as_str()) == expected
}

/// Adds to a list of objects those that are new by `key`, and to those that are not what they depend on.
fn merge(ours: &mut Value, theirs: Vec<Value>, key: &str) {
    let mut all = list(ours);
    for their in theirs {
        match all.iter_mut().find(|our| our[key] == their[key]) {
            None => all.push(their),
            Some(our) => {
                let both = [list(&mut our["dependsOn"]), list(&mut their.clone()["dependsOn"])].concat();
                let both: BTreeSet<_> = both.iter().filter_map(Value::as_str).map(String::from).collect();
                match our.as_object_mut() {
                    Some(our) if both.is_empty() => drop(our.remove("dependsOn")),
                    _ => our["dependsOn"] = json!(both),
                }
            }
        }
    }
    all.sort_by(|a, b| a[key].as_str().cmp(&b[key].as_str()));
    *ours = Value::Array(all);
}

/// Takes a list out.
fn list(value: &mut Value) -> Vec<Value> {
    match value.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

fn each_text(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(list) => list.iter_mut().for_each(|value| each_text(value, change)),
        Value::Object(fields) => fields.values_mut().for_each(|value| each_text(value, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str, version: &str) -> Value {
        json!({
            "bom-ref": format!("path+file:///home/somebody/{name}#{version}"),
            "name": name,
            "version": version,
            "licenses": [{ "expression": "MIT" }],
            "purl": format!("pkg:cargo/{name}@{version}"),
        })
    }

    fn fetched(name: &str, version: &str, checksum: &str) -> Value {
        let mut component = component(name, version);
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        component
    }

    fn document(root: &str, components: &[Value]) -> Document {
        let names: Vec<_> = components.iter().map(|component| component["bom-ref"].clone()).collect();
        let root = component(root, "0.1.0");
        let value = json!({
            "serialNumber": "urn:uuid:1",
            "metadata": { "timestamp": "2001-01-01T00:00:00Z", "component": root },
            "components": components,
            "dependencies": [{ "ref": root["bom-ref"], "dependsOn": names }],
        });
        Document::read(&value.to_string(), Path::new("/home/somebody"), false).expect("a document")
    }

    fn package(name: &str, version: &str, checksum: Option<&str>) -> Package {
        Package { name: name.into(), version: version.into(), checksum: checksum.map(String::from) }
    }

    #[test]
    fn a_document_tells_neither_where_nor_when_it_was_made() {
        let text = document("flowlane", &[component("flowlane-wire", "0.1.0")]).to_text().expect("text");
        for told in ["somebody", "serialNumber", "timestamp", "urn:uuid"] {
            assert!(!text.contains(told), "{told}: {text}");
        }
        assert!(text.contains("path+file:///flowlane-wire#0.1.0"), "{text}");
    }

    #[test]
    fn a_package_that_is_linked_must_be_in_it_with_checksum_licence_and_address() {
        let (sum, other) = ("11", "22");
        let linked = [package("flowlane", "0.1.0", None), package("redb", "4.5.0", Some(sum))].into();
        let refused = |component: Value| document("flowlane", &[component]).check(&linked).map_err(|e| e.to_string());
        assert_eq!(refused(fetched("redb", "4.5.0", sum)), Ok(()));
        let without = |field: &str| {
            let mut component = fetched("redb", "4.5.0", sum);
            component.as_object_mut().expect("an object").remove(field);
            component
        };
        for (component, lack) in [
            (fetched("redb", "4.5.1", sum), "redb 4.5.0 is not in the document"),
            (fetched("redb", "4.5.0", other), "redb 4.5.0 has not the lock file's checksum"),
            (without("hashes"), "redb 4.5.0 has not the lock file's checksum"),
            (without("licenses"), "redb 4.5.0 has no licence"),
            (without("purl"), "redb 4.5.0 has no package URL"),
        ] {
            assert!(refused(component).is_err_and(|told| told.contains(lack)), "{lack}");
        }
    }

    #[test]
    fn what_an_embedded_file_is_made_of_is_said_once() {
        let wire = component("flowlane-wire", "0.1.0");
        let mut outer = document("flowlane", &[wire.clone(), fetched("redb", "4.5.0", "11")]);
        let files = [("switch.bpf.o", "33".to_owned())];
        outer.embed(&files, document("kernel", &[wire, fetched("aya-ebpf", "0.2.1", "44")]));
        let Document(value) = &outer;
        let names: Vec<_> = value["components"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["aya-ebpf", "flowlane-wire", "kernel", "redb", "switch.bpf.o"]);
        let depends_on = |whose: &str| {
            let all = value["dependencies"].as_array().expect("a list");
            all.iter().find(|one| one["ref"] == whose).map(|one| one["dependsOn"].clone())
        };
        let ours = json!(["path+file:///flowlane-wire#0.1.0", "path+file:///redb#4.5.0", "switch.bpf.o"]);
        assert_eq!(depends_on("path+file:///flowlane#0.1.0"), Some(ours));
        assert_eq!(depends_on("switch.bpf.o"), Some(json!(["path+file:///kernel#0.1.0"])));
        let inner = json!(["path+file:///flowlane-wire#0.1.0", "path+file:///aya-ebpf#0.2.1"]);
        assert_eq!(depends_on("path+file:///kernel#0.1.0"), Some(inner));
    }
}
