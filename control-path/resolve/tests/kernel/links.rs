//! Interfaces that come, change and go.

use crate::lab::{Namespace, Observer};
use flowlane_resolve::list_links;

#[test]
fn every_interface_is_told_at_the_start() {
    let (switch, host) = (Namespace::new("switch"), Namespace::new("host"));
    switch.connect("p1", &host, "h1", "02:00:00:00:00:11");
    switch.ip("link set p1 address 02:00:00:00:00:01 mtu 1400");
    switch.ip("link add br0 type bridge");
    switch.ip("link set p1 master br0");
    switch.run(async {
        let mut observer = Observer::start();
        let bridge = observer.index("br0").await;
        observer.index("lo").await;
        observer.until(|seen| seen.links.get("p1").filter(|link| link.up).map(|_| ())).await;
        let port = &observer.links["p1"];
        assert_eq!((port.mtu, port.mac.to_string().as_str(), port.master), (1400, "02:00:00:00:00:01", Some(bridge)));
        let mut listed = list_links().await.expect("the kernel answers");
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(listed.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["br0", "lo", "p1"]);
        assert_eq!(&listed[2], port);
    });
}

#[test]
fn link_that_goes_down_and_up_is_told() {
    let (switch, host) = (Namespace::new("switch"), Namespace::new("host"));
    switch.connect("p1", &host, "h1", "02:00:00:00:00:11");
    switch.run(async {
        let mut observer = Observer::start();
        let up = |wanted| move |seen: &Observer| seen.links.get("p1").filter(|link| link.up == wanted).map(|_| ());
        observer.until(up(true)).await;
        switch.ip("link set p1 down");
        observer.until(up(false)).await;
        switch.ip("link set p1 up");
        observer.until(up(true)).await;
        host.ip("link set h1 down");
        observer.until(up(false)).await;
        host.ip("link set h1 up");
        observer.until(up(true)).await;
    });
}

#[test]
fn port_that_leaves_its_bridge_is_not_gone() {
    let (switch, host) = (Namespace::new("switch"), Namespace::new("host"));
    switch.connect("p1", &host, "h1", "02:00:00:00:00:11");
    switch.ip("link add br0 type bridge");
    switch.ip("link set p1 master br0");
    switch.run(async {
        let mut observer = Observer::start();
        observer.until(|seen| seen.links.get("p1").filter(|link| link.master.is_some()).map(|_| ())).await;
        switch.ip("link set p1 nomaster");
        observer.until(|seen| seen.links.get("p1").filter(|link| link.master.is_none()).map(|_| ())).await;
        observer.pass(std::time::Duration::from_millis(200)).await;
        assert!(observer.links.contains_key("p1"));
    });
}

#[test]
fn link_that_is_removed_and_made_again_is_told_with_its_new_index() {
    let (switch, host) = (Namespace::new("switch"), Namespace::new("host"));
    switch.connect("p1", &host, "h1", "02:00:00:00:00:11");
    switch.run(async {
        let mut observer = Observer::start();
        let first = observer.index("p1").await;
        switch.ip("link del p1");
        observer.until(|seen| (!seen.links.contains_key("p1")).then_some(())).await;
        switch.connect("p1", &host, "h1", "02:00:00:00:00:11");
        assert_ne!(observer.index("p1").await, first);
    });
}
