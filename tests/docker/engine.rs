//! The Docker engine for the tests: commands, containers and Compose projects, removed at the end.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::support::{Limited, TOOL, skip, watchdog};

/// The root of the repository.
pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Tests that need the engine are skipped without it, and fail if this environment variable is 1.
pub(crate) const REQUIRED: &str = "POINTSMAN_REQUIRE_DOCKER";
/// The time limit of a test after it has acquired the engine: it may build and pull images.
const TEST: Duration = Duration::from_secs(45 * 60);

/// The number of concurrent tests: two cores cannot start more containers within the time limits.
const TESTS: u32 = 3;

/// What a test does to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// It starts containers of its own.
    Usual,
    /// It changes the engine: only other such tests run at the same time.
    Change,
}

/// How often a waiting test extends its time limit: its own work begins only when it has got the engine.
const STILL_WAITING: Duration = Duration::from_secs(60);

static PERMITS: Mutex<Permits> = Mutex::new(Permits { used: 0, kind: Use::Usual, next: 0, served: 0 });
static CHANGED: Condvar = Condvar::new();

/// The permits to use the engine. Tests get them in the order of their requests, so that one that changes the engine does not
/// wait until all usual ones have ended.
struct Permits {
    used: u32,
    /// The kind of the tests that hold permits.
    kind: Use,
    /// The position of the next test to ask.
    next: u64,
    /// The tests that have got their permit.
    served: u64,
}

impl Permits {
    fn lock() -> MutexGuard<'static, Self> {
        PERMITS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_free(&self, position: u64, intended: Use) -> bool {
        self.served == position && (self.used == 0 || (self.kind == intended && self.used < TESTS))
    }
}

/// A test's permit to use the engine.
pub(crate) struct Engine(());

impl Engine {
    /// Waits for one of the [`TESTS`] permits. `None` without an engine, unless one is required.
    fn acquire(intended: Use) -> Option<Self> {
        // Usual tests look for the engine before they ask for a permit: those that change it, which start at the same time, are
        // then usually the first to ask.
        if intended == Use::Usual && !answers() {
            return None;
        }
        let mut permits = Permits::lock();
        let position = permits.next;
        permits.next += 1;
        while !permits.is_free(position, intended) {
            watchdog::allow(TEST);
            let waited = CHANGED.wait_timeout(permits, STILL_WAITING);
            permits = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        permits.used += 1;
        permits.kind = intended;
        permits.served += 1;
        drop(permits);
        CHANGED.notify_all();
        let engine = Self(());
        // The time limit starts here, after the wait for earlier tests.
        watchdog::allow(TEST);
        (intended == Use::Usual || answers()).then_some(engine)
    }
}

/// Whether an engine answers; without one the test is skipped.
fn answers() -> bool {
    let version = Command::new("docker").arg("version").output_in_time();
    let answers = version.is_ok_and(|output| output.status.success());
    if !answers {
        skip(REQUIRED, "no Docker engine answers (https://docs.docker.com/engine/install)");
    }
    answers
}

impl Drop for Engine {
    fn drop(&mut self) {
        Permits::lock().used -= 1;
        CHANGED.notify_all();
    }
}

/// The engine, with the images that most tests need.
pub(crate) fn engine() -> Option<Engine> {
    Engine::acquire(Use::Usual).map(with_images)
}

/// The same for a test that changes the engine.
pub(crate) fn engine_to_change() -> Option<Engine> {
    Engine::acquire(Use::Change).map(with_images)
}

/// The engine without images built here.
pub(crate) fn bare_engine() -> Option<Engine> {
    Engine::acquire(Use::Usual)
}

fn with_images(engine: Engine) -> Engine {
    static IMAGES: OnceLock<()> = OnceLock::new();
    IMAGES.get_or_init(|| {
        docker(&["build", "-q", "-t", "backend-flask", "backend-flask"]);
        docker(&["build", "-q", "-t", "pointsman", "."]);
    });
    engine
}

/// Whether a public image is present or can be pulled.
pub(crate) fn image(name: &str) -> bool {
    let succeeds = |arguments: &[&str]| {
        let output = Command::new("docker").args(arguments).output_within(TOOL);
        output.is_ok_and(|output| output.status.success())
    };
    let here = succeeds(&["image", "inspect", name]) || succeeds(&["pull", "-q", name]);
    if !here {
        skip(REQUIRED, &format!("there is no image {name}, and `docker pull {name}` does not get it"));
    }
    here
}

/// A unique name.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("pointsman-test-{}-{}-{what}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn output(mut command: Command) -> Output {
    command.current_dir(ROOT);
    command.output_within(TOOL).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn succeed(command: Command) -> String {
    let description = format!("{command:?}");
    let output = output(command);
    let error = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{description}: {}\n{text}\n{error}", output.status);
    text
}

/// Runs `docker`; its output, or its error.
pub(crate) fn try_docker(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("docker");
    command.args(arguments);
    let output = output(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Runs `docker`, which must succeed; its output.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let mut command = Command::new("docker");
    command.args(arguments);
    succeed(command)
}

/// The output of `docker inspect`.
pub(crate) fn inspect(what: &str, format: &str) -> String {
    docker(&["inspect", "--format", format, what])
}

/// The only IPv4 address of a container.
pub(crate) fn ip(container: &str) -> IpAddr {
    let text = inspect(container, "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}");
    text.trim().parse().unwrap_or_else(|_| panic!("the address of {container}: {text:?}"))
}

/// A container's log: standard output and standard error.
pub(crate) fn logs(container: &str) -> String {
    let mut command = Command::new("docker");
    command.args(["logs", container]);
    let output = output(command);
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

/// Prints the state of a container, its log, and where the kernel has each of its processes, for a test that has failed.
pub(crate) fn describe(container: &str) {
    let run = |arguments: &[&str]| {
        let output = Command::new("docker").args(arguments).output_in_time();
        output.map_or_else(
            |error| error.to_string(),
            |output| {
                [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat()
            },
        )
    };
    eprintln!("--- container {container}");
    eprint!(
        "{}",
        run(&["inspect", "--format", "{{json .State}} {{json .NetworkSettings.Networks}}", container])
    );
    eprint!("{}", run(&["top", container, "-eo", "pid,stat,etimes,time,wchan:32,args"]));
    eprintln!("{}", run(&["logs", "--tail", "20", "--timestamps", container]));
}

/// A container, removed at the end.
pub(crate) struct Container(pub(crate) String);

impl Container {
    /// `docker run -d` with these arguments.
    pub(crate) fn run(what: &str, arguments: &[&str]) -> Self {
        let name = unique(what);
        let container = Self(name.clone());
        docker(&[&["run", "-d", "--name", &name], arguments].concat());
        container
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            describe(&self.0);
        }
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.0]).output_within(TOOL);
    }
}

/// Removes many containers at once, which takes the engine far less time than one after the other.
pub(crate) fn remove(containers: Vec<Container>) {
    let names = containers.iter().map(|container| &*container.0);
    docker(&["rm", "-f", "-v"].into_iter().chain(names).collect::<Vec<_>>());
    containers.into_iter().for_each(std::mem::forget);
}

/// A network, removed at the end; declare it before its containers.
pub(crate) struct Network(pub(crate) String);

impl Network {
    /// `docker network create` with these arguments.
    pub(crate) fn create(what: &str, arguments: &[&str]) -> Self {
        let name = unique(what);
        docker(&[&["network", "create"], arguments, &[&name]].concat());
        Self(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", &self.0]).output_within(TOOL);
    }
}

/// A Compose project of a file in the repository, removed at the end.
pub(crate) struct Project {
    name: String,
    file: &'static str,
    backends: u32,
    environment: Vec<(&'static str, String)>,
}

impl Project {
    /// A project of `file`, not started.
    pub(crate) fn new(file: &'static str, backends: u32) -> Self {
        Self { name: unique("compose"), file, backends, environment: Vec::new() }
    }

    /// The same with a variable for the file.
    pub(crate) fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.environment.push((variable, value.to_owned()));
        self
    }

    /// Its name, which those of its networks begin with.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs Compose, which must succeed; its standard output.
    pub(crate) fn compose(&self, arguments: &[&str]) -> String {
        succeed(self.command(arguments))
    }

    /// Runs a command in the first container of the service; its output. Compose would use far more CPU time.
    pub(crate) fn exec(&self, service: &str, command: &[&str]) -> String {
        let container = self.container(service);
        docker(&[&["exec", &container], command].concat())
    }

    /// Starts everything, as in the README.
    pub(crate) fn up(&self) {
        self.scale(self.backends);
    }

    /// Scales the backends.
    pub(crate) fn scale(&self, backends: u32) {
        self.compose(&["up", "-d", "--scale", &format!("backend={backends}")]);
    }

    /// Compose with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = compose_command();
        command.args(["-p", &self.name, "-f", self.file]).args(arguments);
        // Any free port of the host, the same for all commands: another one would change the container.
        let ports = [
            "",
            "ADMIN_",
            "MASTER_",
            "REPLICA_",
            "PRIMARY_",
            "STANDBY_",
            "PROMETHEUS_",
            "GRAFANA_",
            "TLS_",
            "SHOP_",
            "USERS_",
            "PRODUCTS_",
            "ORDERS_",
        ];
        for port in ports {
            command.env(format!("{port}PORT"), "0");
        }
        command.env("BACKENDS", self.backends.to_string());
        command.envs(self.environment.iter().map(|(variable, value)| (variable, value)));
        command
    }

    /// The running containers of a service, by name.
    pub(crate) fn containers(&self, service: &str) -> Vec<String> {
        let labels = [("project", &*self.name), ("service", service), ("oneoff", "False")];
        let filters =
            labels.map(|(label, value)| format!("--filter=label=com.docker.compose.{label}={value}"));
        let filters = filters.each_ref().map(String::as_str);
        // Compose would use twenty times the CPU time.
        let found = docker(&[&["ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}"], &filters[..]].concat());
        let mut found: Vec<_> = found.lines().collect();
        found.sort_unstable();
        found.iter().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
    }

    /// The first container of a service, which must run.
    pub(crate) fn container(&self, service: &str) -> String {
        let first = self.containers(service).into_iter().next();
        first.unwrap_or_else(|| panic!("{service} does not run"))
    }

    /// The published address of a service's port.
    pub(crate) fn published(&self, service: &str, port: &str) -> SocketAddr {
        let container = self.container(service);
        let published = format!("{{{{(index (index .NetworkSettings.Ports \"{port}/tcp\") 0).HostPort}}}}");
        let text = inspect(&container, &published);
        let port = text.parse().unwrap_or_else(|_| panic!("the port of {service}: {text:?}"));
        SocketAddr::new([127, 0, 0, 1].into(), port)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // Compose gives up if the engine is slow to respond or a container removes itself meanwhile, and then leaves the
        // networks, whose addresses later projects need.
        for _ in 0..5 {
            let mut down = self.command(&["down", "-v", "--remove-orphans", "-t", "0"]);
            match down.current_dir(ROOT).output_within(TOOL) {
                Ok(output) if output.status.success() => return,
                Ok(output) => eprintln!("{}: {}", self.name, String::from_utf8_lossy(&output.stderr)),
                Err(error) => eprintln!("{}: {error}", self.name),
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Compose v2 if installed, otherwise docker-compose.
fn compose_command() -> Command {
    static PLUGIN: OnceLock<bool> = OnceLock::new();
    let plugin = *PLUGIN.get_or_init(|| {
        Command::new("docker")
            .args(["compose", "version"])
            .output_in_time()
            .is_ok_and(|output| output.status.success())
    });
    if plugin {
        let mut command = Command::new("docker");
        command.arg("compose");
        command
    } else {
        Command::new("docker-compose")
    }
}

/// A configuration in a folder that a container can mount, readable for any user.
pub(crate) fn configuration(text: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let readable =
        |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    readable(folder.path(), 0o755);
    let file = folder.path().join("pointsman.yaml");
    std::fs::write(&file, text).unwrap();
    readable(&file, 0o644);
    folder
}

/// Pointsman in a container on `network`, with this configuration.
pub(crate) fn pointsman(network: &Network, folder: &tempfile::TempDir) -> Container {
    let mount = format!("{}:/etc/pointsman:ro", folder.path().display());
    let hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
    let arguments = [&["--network", &network.0, "-v", &mount][..], &hardened, &["pointsman"]].concat();
    Container::run("lb", &arguments)
}
