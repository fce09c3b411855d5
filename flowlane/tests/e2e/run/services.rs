//! Real servers on a host, each with files of its own: iperf3, nginx, sshd, dnsmasq.

use super::host::{listens, output, text};
use flowlane_lab::{Cgroup, Host, Netns};
use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};
use tempfile::TempDir;

/// Where nginx listens.
pub const HTTP: u16 = 8080;
/// Where sshd listens.
pub const SSH: u16 = 2222;
/// Where dnsmasq listens.
pub const DNS: u16 = 5353;
/// Where iperf3 listens; it serves one client at a time, so there are two.
pub const IPERF: [u16; 2] = [5201, 5202];

/// What nginx serves.
pub const PAGE: &str = "a page\n";
/// What dnsmasq knows.
pub const NAME: &str = "flow.example";
/// The address of that name.
pub const ADDRESS: &str = "192.0.2.7";

/// The servers of a host. Dropping it ends them.
pub struct Services {
    netns: Netns,
    addresses: Vec<IpAddr>,
    running: Vec<Child>,
    cgroup: Cgroup,
    directory: TempDir,
}

impl Services {
    pub fn new(host: &Host) -> Self {
        let addresses = host.addresses().iter().map(|net| net.addr()).collect();
        let directory = TempDir::new().expect("a directory");
        let cgroup = Cgroup::new("flowlane-e2e-services").expect("root");
        Self { netns: host.netns().clone(), addresses, running: Vec::new(), cgroup, directory }
    }

    /// Has the servers that follow serve at one more address of the host.
    pub fn also_at(mut self, address: &str) -> Self {
        self.addresses.push(address.parse().expect("an address"));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `iperf3 -s`, twice.
    pub fn iperf3(mut self) -> Self {
        for port in IPERF {
            self.serve(Command::new("iperf3").args(["-s", "-p", &port.to_string()]), port);
        }
        self
    }

    pub fn nginx(mut self) -> Self {
        fs::create_dir(self.path("www")).expect("a directory");
        fs::write(self.path("www/index.html"), PAGE).expect("a page");
        let listen: String =
            self.addresses.iter().map(|ip| format!("listen {};", SocketAddr::new(*ip, HTTP))).collect();
        let files = self.directory.path().display();
        let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {files}/{name};\n"))
            .concat();
        let text = format!(
            "daemon off; master_process off; pid {files}/pid; error_log {files}/errors;\nevents {{}}\n\
             http {{ access_log off;\n{places} server {{ {listen} root {files}/www; }} }}\n"
        );
        fs::write(self.path("nginx.conf"), text).expect("a configuration");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(self.directory.path()).arg("-c").arg(self.path("nginx.conf"));
        self.serve(command.arg("-e").arg(self.path("errors")), HTTP);
        self
    }

    pub fn sshd(mut self) -> Self {
        for key in ["host_key", "key"] {
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(self.path(key));
            text(&output(&mut command));
        }
        fs::copy(self.path("key.pub"), self.path("authorized")).expect("a key");
        let files = self.directory.path().display();
        let text = format!(
            "HostKey {files}/host_key\nAuthorizedKeysFile {files}/authorized\nPidFile none\nStrictModes no\n\
             UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n"
        );
        fs::write(self.path("sshd.conf"), text).expect("a configuration");
        // Compiled in as the place that its unprivileged half is locked into; Debian makes it when the service starts.
        fs::create_dir_all("/run/sshd").expect("root");
        let mut command = Command::new("/usr/sbin/sshd");
        self.serve(command.args(["-D", "-e", "-p", &SSH.to_string(), "-f"]).arg(self.path("sshd.conf")), SSH);
        self
    }

    pub fn dnsmasq(mut self) -> Self {
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
        command.args([&format!("--port={DNS}"), &format!("--address=/{NAME}/{ADDRESS}"), "--pid-file"]);
        self.serve(&mut command, DNS);
        self
    }

    /// `ssh` by the key of this host's server, as one argument of rsync has it.
    pub fn ssh(&self) -> String {
        let key = self.path("key");
        let options =
            "-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
        format!("ssh -p {SSH} -i {} {options}", key.display())
    }

    /// Starts a server and waits until it listens.
    fn serve(&mut self, server: &mut Command, port: u16) {
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let mut command = self.netns.command(server.get_program());
        command.args(server.get_args()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.running.push(self.cgroup.hold(&mut command).expect("a cgroup").spawn().expect("the server runs"));
        listens(&self.netns, port);
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.path("log")).unwrap_or_default());
        }
        for server in &mut self.running {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
