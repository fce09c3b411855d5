//! Leases, as clients remember them.

use crate::{
    Error,
    api::{Api, Lease},
};
use serde_json::Value;
use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(20);

/// Who was told to have which address.
#[derive(Default)]
pub(crate) struct Ledger {
    owners: HashMap<String, String>,
    /// Leases that a switch did not know later.
    pub lost: u64,
    /// Addresses that were given to two clients.
    pub doubled: u64,
}

impl Ledger {
    pub(crate) fn acknowledged(&self) -> u64 {
        self.owners.len() as u64
    }

    pub(crate) fn note(&mut self, lease: &Lease) {
        for address in &lease.addresses {
            let before = self.owners.insert(address.clone(), lease.client.clone());
            self.doubled += u64::from(before.is_some_and(|before| before != lease.client));
        }
    }
}

/// Asks for leases, one after the other, until told to stop. A request that nobody answers is nobody's lease.
pub(crate) fn ask_until(stop: &AtomicBool, ledger: &Mutex<Ledger>, socket: &Path, port: &str) -> Result<(), Error> {
    let api = Api::new(socket)?;
    let first = ledger.lock().unwrap_or_else(PoisonError::into_inner).acknowledged();
    for number in first.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if let Ok(lease) = api.open(port, &format!("client {number}"), 1) {
            ledger.lock().unwrap_or_else(PoisonError::into_inner).note(&lease);
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Looks whether a switch knows every lease that was acknowledged by now, and gives no address to two clients.
pub(crate) fn check(ledger: &Mutex<Ledger>, api: &Api) -> Result<(), Error> {
    let owners = ledger.lock().unwrap_or_else(PoisonError::into_inner).owners.clone();
    let flows = api.get("/v1/flows")?;
    let mut known: HashMap<&str, String> = HashMap::new();
    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    for flow in flows.as_array().into_iter().flatten() {
        let Some(address) = flow["address"].as_str() else { continue };
        ledger.doubled += u64::from(known.insert(address, text(&flow["client"])).is_some());
    }
    ledger.lost += owners.iter().filter(|(address, client)| known.get(address.as_str()) != Some(client)).count() as u64;
    Ok(())
}

fn text(value: &Value) -> String {
    value.to_string()
}
