//! Hosts: network namespaces with interfaces, addresses and routes.

use std::{
    fmt,
    fs::File,
    io,
    os::fd::OwnedFd,
    process::{Child, Command},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::sched::{CloneFlags, setns, unshare};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::{Error, Result, Segment, switch::PortId};

/// A machine on the network.
///
/// Its loopback interface is up; it has one further interface (`eth0`, `eth1`, ..) for each segment that it was attached to. The
/// namespace lives as long as this value, or a process inside it.
pub struct Host {
    name: String,
    namespace: OwnedFd,
    interfaces: Mutex<Vec<Interface>>,
    is_router: bool,
}

struct Interface {
    name: String,
    device: Arc<SyncDevice>,
    segment: Segment,
    port: PortId,
    gateway: Option<String>,
}

impl Host {
    /// Makes a host without neighbours.
    ///
    /// # Errors
    /// Returns an error outside [`crate::isolated`], where a process may make no namespaces.
    pub fn new(name: &str) -> Result<Self> {
        Self::make(name, false)
    }

    /// Makes a router: it forwards packets between its interfaces, and isolated clients reach it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn router(name: &str) -> Result<Self> {
        let router = Self::make(name, true)?;
        router.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
                .map_err(Error::io("switch IP forwarding on"))
        })?;
        Ok(router)
    }

    fn make(name: &str, is_router: bool) -> Result<Self> {
        let made = std::thread::scope(|scope| {
            // The namespace is made by a thread that ends: the caller keeps its own.
            let maker = scope.spawn(|| -> io::Result<OwnedFd> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Ok(File::open("/proc/thread-self/ns/net")?.into())
            });
            maker.join().expect("it does not panic")
        });
        let namespace = made.map_err(Error::io(format!("host {name}: network namespace")))?;
        let interfaces = Mutex::default();
        let host = Self { name: name.to_owned(), namespace, interfaces, is_router };
        host.ip(&["link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure on a thread inside the host; sockets opened there are the host's.
    ///
    /// # Panics
    /// Passes on the closure's panic.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET)
                    .expect("the namespace was made by this process");
                body()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a process inside the host. It is killed when the returned value is dropped.
    ///
    /// # Errors
    /// Returns an error if the program cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = self.run(|| command.spawn());
        child.map(Process).map_err(Error::io(format!("host {}: start {program}", self.name)))
    }

    /// Attaches the host to a segment with an address such as `192.168.1.2/24`; returns the interface's name.
    ///
    /// # Errors
    /// Returns an error if the address is none, or the kernel refuses the device.
    pub fn attach(&self, segment: &Segment, address: &str) -> Result<String> {
        let name = format!("eth{}", self.lock().len());
        let device = self.run(|| make_device(&name));
        let device = device.map_err(Error::io(format!("host {}: TAP device {name}", self.name)))?;
        let device = Arc::new(device);
        self.set_up(&name, address)?;
        let port = segment.attach(Arc::clone(&device), self.is_router);
        let segment = segment.clone();
        let interface = Interface { name: name.clone(), device, segment, port, gateway: None };
        self.lock().push(interface);
        Ok(name)
    }

    /// Sends what is for other networks through the router with this address.
    ///
    /// # Errors
    /// Returns an error if the interface is none of this host's, or cannot reach the address.
    pub fn set_gateway(&self, interface: &str, gateway: &str) -> Result<()> {
        self.ip(&["route", "replace", "default", "via", gateway, "dev", interface])?;
        self.with(interface, |interface| interface.gateway = Some(gateway.to_owned()))
    }

    /// Changes an interface's address, as a lease that ended does. A gateway is kept where the new address reaches it.
    ///
    /// # Errors
    /// Returns an error if the interface is none of this host's, or the address is none.
    pub fn change_address(&self, interface: &str, address: &str) -> Result<()> {
        let gateway = self.with(interface, |interface| interface.gateway.clone())?;
        self.ip(&["addr", "flush", "dev", interface, "scope", "global"])?;
        self.ip(&["addr", "add", address, "dev", interface])?;
        match gateway {
            Some(gateway) => self.set_gateway(interface, &gateway),
            None => Ok(()),
        }
    }

    /// Moves an interface to another segment with another address, as a phone that roams. Its gateway is forgotten.
    ///
    /// # Errors
    /// As [`Self::change_address`].
    pub fn move_to(&self, interface: &str, segment: &Segment, address: &str) -> Result<()> {
        self.ip(&["link", "set", interface, "down"])?;
        self.ip(&["addr", "flush", "dev", interface])?;
        let is_router = self.is_router;
        self.with(interface, |interface| {
            interface.segment.detach(interface.port);
            interface.port = segment.attach(Arc::clone(&interface.device), is_router);
            interface.segment = segment.clone();
            interface.gateway = None;
        })?;
        self.set_up(interface, address)
    }

    /// Runs the `ip` command inside the host.
    ///
    /// # Errors
    /// Returns what the command said if it failed.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(|| Command::new("ip").args(arguments).output());
        let output = output.map_err(Error::io("start ip"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Ip {
            arguments: arguments.join(" "),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    fn set_up(&self, interface: &str, address: &str) -> Result<()> {
        self.run(|| {
            // Nobody else has the address; a kernel without IPv6 has nothing to switch off.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/accept_dad"), "0");
        });
        self.ip(&["addr", "add", address, "dev", interface])?;
        self.ip(&["link", "set", interface, "up"])?;
        Ok(())
    }

    pub(crate) fn ports_on(&self, segment: &Segment) -> Vec<PortId> {
        let interfaces = self.lock();
        let here = interfaces.iter().filter(|interface| interface.segment.is(segment));
        here.map(|interface| interface.port).collect()
    }

    fn with<T>(&self, interface: &str, change: impl FnOnce(&mut Interface) -> T) -> Result<T> {
        let mut interfaces = self.lock();
        let found = interfaces.iter_mut().find(|candidate| candidate.name == interface);
        found.map(change).ok_or_else(|| Error::NoInterface {
            host: self.name.clone(),
            interface: interface.to_owned(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Interface>> {
        self.interfaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for interface in self.lock().drain(..) {
            interface.segment.detach(interface.port);
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).finish_non_exhaustive()
    }
}

fn make_device(name: &str) -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new().name(name).layer(Layer::L2).enable(false).build_sync()?;
    device.set_nonblocking(true)?;
    Ok(device)
}

/// A process inside a host. Killed when dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// The process, for its pipes and its end.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
