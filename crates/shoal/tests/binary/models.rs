//! Models by the command line: a hub on loopback, real processes, real disks.

use std::{
    io::{BufRead, BufReader},
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{OnceLock, mpsc},
    time::Duration,
};

use shoal_fake_hub::{At, Behaviour, Content, FakeHub, Fault};
use tempfile::TempDir;

use crate::{process::NodeProcess, start::shoal};

const REPO: &str = "owner/tiny-GGUF";
const NAME: &str = "owner/tiny-GGUF:Q8_0";
const FILE: &str = "tiny-q8_0.gguf";
const MB: u64 = 1 << 20;
/// Of `hub::partial`: the journal's header and entries, and the chunk that an entry is about.
const JOURNAL_HEADER_BYTES: usize = 57;
const CHUNK_BYTES: u64 = 256 * 1024;

/// A model file of about 64 MB, made once.
fn model() -> &'static Path {
    static MODEL: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MODEL.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join(FILE);
        xtask::synth::fast_model(&path, 64 * MB, 11).expect("the disk takes it");
        (dir, path)
    });
    path
}

/// A hub with the model, and a device.
struct Setup {
    hub: FakeHub,
    dir: TempDir,
}

impl Setup {
    fn new() -> Self {
        let hub = FakeHub::start();
        hub.add_repo(REPO, vec![(FILE, Content::File(model().to_owned()))]);
        Self { hub, dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn shoal(&self, args: &[&str]) -> Command {
        let mut command = shoal(args);
        command
            .env("HF_ENDPOINT", self.hub.endpoint())
            .env("SHOAL_DATA_DIR", self.dir.path())
            // Nobody listens there: the commands work by themselves.
            .env("SHOAL_LISTEN", "127.0.0.1:1");
        command
    }

    /// Runs a command; returns its exit code, standard output and standard error.
    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = self.shoal(args).output().expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    fn succeed(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(args);
        assert_eq!(code, Some(0), "shoal {args:?}: {stdout}\n{stderr}");
        stdout
    }

    fn models_dir(&self) -> PathBuf {
        self.dir.path().join("models")
    }

    fn model_dir(&self) -> PathBuf {
        self.models_dir().join("owner--tiny-GGUF--Q8_0")
    }

    #[track_caller]
    fn assert_whole(&self) {
        let (got, expected) =
            (std::fs::read(self.model_dir().join(FILE)), std::fs::read(model()).expect("made"));
        assert!(got.expect("it is whole") == expected, "other bytes than the hub's");
    }

    /// The bytes that the journal says are on the disk.
    fn held(&self) -> Vec<Range<u64>> {
        let journal = std::fs::read(self.model_dir().join(format!("{FILE}.journal")));
        let journal = journal.unwrap_or_default();
        let entries = journal.get(JOURNAL_HEADER_BYTES..).unwrap_or_default().as_chunks::<48>().0;
        let chunk = |entry: &[u8; 48]| {
            let chunk = u32::from_le_bytes(entry[..4].try_into().expect("four bytes"));
            u64::from(chunk) * CHUNK_BYTES..(u64::from(chunk) + 1) * CHUNK_BYTES
        };
        entries.iter().filter(|entry| matches!(entry[4], 1 | 2)).map(chunk).collect()
    }

    /// The ranges of the file that were asked for.
    fn asked_for(&self) -> Vec<Range<u64>> {
        let log = self.hub.log();
        let ranges = log.iter().filter(|it| it.at == At::Cdn).filter_map(|it| it.range.as_deref());
        ranges
            .map(|range| {
                let (start, end) =
                    range.trim_start_matches("bytes=").split_once('-').expect("a range");
                let end = end.parse::<u64>().expect("closed") + 1;
                start.parse().expect("a number")..end
            })
            .collect()
    }
}

/// Waits without sleeping a thread that others need.
fn wait(time: Duration) {
    let (_sender, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}

#[test]
fn pulls_lists_verifies_and_removes() {
    let setup = Setup::new();
    let stdout = setup.succeed(&["pull", REPO]);
    assert!(stdout.contains(NAME), "{stdout}");
    setup.assert_whole();
    assert_eq!(setup.hub.served_bytes(), std::fs::metadata(model()).expect("made").len());
    setup.hub.reset_log();
    setup.succeed(&["pull", NAME]);
    assert!(setup.hub.log().is_empty(), "what is here needs no network");
    assert!(setup.succeed(&["list"]).contains(NAME));
    setup.succeed(&["verify", NAME]);
    let answer =
        setup.succeed(&["run", NAME, "The fish", "--raw", "--max-tokens", "4", "--seed", "1"]);
    assert!(!answer.trim().is_empty());
    setup.succeed(&["rm", NAME]);
    assert!(!setup.model_dir().exists());
    assert!(!setup.succeed(&["list"]).contains(NAME));
}

#[test]
fn run_pulls_what_is_missing() {
    let setup = Setup::new();
    let args = ["run", REPO, "The fish", "--raw", "--max-tokens", "4", "--temperature", "0"];
    let first = setup.succeed(&args);
    setup.assert_whole();
    setup.hub.reset_log();
    assert_eq!(setup.succeed(&args), first);
    assert!(setup.hub.log().is_empty());
}

#[test]
fn goes_on_after_kill_at_any_moment() {
    let setup = Setup::new();
    setup.hub.behave(Behaviour::new(At::Cdn, Fault::Slow { bytes_per_s: 2 * MB }));
    let mut random = 3u64;
    let mut n_kills = 0;
    let mut n_held = Vec::new();
    while n_kills < 20 {
        let held = setup.held();
        n_held.push(held.len());
        setup.hub.reset_log();
        let mut pull = setup.shoal(&["pull", REPO]);
        let mut child = pull.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        wait(Duration::from_millis(60 + (random >> 33) % 500));
        // SIGKILL.
        child.kill().expect("it was started");
        child.wait().expect("it was started");
        n_kills += 1;
        for asked in setup.asked_for() {
            let again = held.iter().find(|it| it.start < asked.end && asked.start < it.end);
            assert!(again.is_none(), "{asked:?} was asked for, and {again:?} was on the disk");
        }
        assert!(!setup.model_dir().join(FILE).exists(), "nothing looks whole: {n_held:?}");
    }
    assert!(n_held.last() > n_held.first(), "something was kept: {n_held:?}");
    setup.hub.behave_well();
    setup.succeed(&["pull", REPO]);
    setup.assert_whole();
}

#[test]
fn a_full_disk_stops_it_and_space_lets_it_go_on() {
    let setup = Setup::new();
    setup.hub.behave(Behaviour::new(At::Cdn, Fault::Slow { bytes_per_s: 8 * MB }));
    // A disk of its own that something else fills while the download runs.
    let script = r#"
        mount -t tmpfs -o size=90m none "$DISK" || exit 99
        "$SHOAL" pull owner/tiny-GGUF --models-dir "$DISK" & pull=$!
        while [ -z "$(find "$DISK" -name '*.journal' -size +1k)" ]; do :; done
        head -c 90000000 /dev/zero > "$DISK/other" 2>/dev/null
        wait $pull; echo "first: $?"
        rm "$DISK/other"
        "$SHOAL" pull owner/tiny-GGUF --models-dir "$DISK"; echo "second: $?"
        cmp "$DISK"/*/tiny-q8_0.gguf "$MODEL" && echo same
    "#;
    let shell = setup.shoal(&[]);
    let program = shell.get_program().to_owned();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    command.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("DISK", setup.dir.path()).env("SHOAL", program).env("MODEL", model());
    let Ok(output) = command.output() else {
        println!("SKIPPED: no `unshare` to make a disk of our own with");
        return;
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(99)
        || stderr.contains("unshare failed")
        || stderr.starts_with("unshare:")
    {
        println!("SKIPPED: this machine lets nobody mount a disk of their own: {stderr}");
        return;
    }
    assert!(stdout.contains("first: 8"), "{stdout}\n{stderr}");
    assert!(stdout.contains("second: 0"), "{stdout}\n{stderr}");
    assert!(stdout.contains("same"), "{stdout}\n{stderr}");
    assert!(stderr.contains("full"), "{stderr}");
}

#[test]
fn a_disk_that_is_too_small_is_said_before_anything_is_fetched() {
    let setup = Setup::new();
    let dir = setup.dir.path().to_owned();
    let script = r#"mount -t tmpfs -o size=20m none "$DISK" || exit 99
        exec "$SHOAL" pull owner/tiny-GGUF --models-dir "$DISK""#;
    let shell = setup.shoal(&[]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    command.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("DISK", dir).env("SHOAL", shell.get_program());
    let Ok(output) = command.output() else { return println!("SKIPPED: no `unshare`") };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(99) || stderr.starts_with("unshare:") {
        return println!("SKIPPED: this machine lets nobody mount a disk of their own: {stderr}");
    }
    assert_eq!(output.status.code(), Some(8), "{stderr}");
    assert!(setup.hub.served_bytes() <= 4 * MB, "only the header");
}

#[test]
fn the_catalogue_is_readable_on_a_phone() {
    let setup = Setup::new();
    let output =
        setup.shoal(&["models", "--all"]).env("COLUMNS", "60").output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}");
    let widest = text.lines().map(|line| line.chars().count()).max().expect("lines");
    assert!(widest <= 60, "{widest} columns:\n{text}");
    for short in [
        "tinyllama:1.1b",
        "qwen2.5:0.5b",
        "qwen2.5:1.5b",
        "qwen2.5:3b",
        "llama3.2:1b",
        "llama3.2:3b",
        "phi3.5",
    ] {
        let line = text.lines().find(|line| line.contains(short)).expect(short);
        let verdicts = ["runs", "too large", "cannot run"];
        assert!(verdicts.iter().any(|verdict| line.contains(verdict)), "{line}");
    }
}

#[test]
fn names_that_mean_nothing_are_answered_with_what_could_be_meant() {
    let setup = Setup::new();
    let (code, _, stderr) = setup.run(&["pull", "qwen2.5:0.5"]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("did you mean qwen2.5:0.5b"), "{stderr}");
    let (code, _, stderr) = setup.run(&["pull", "nobody/nothing"]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("nobody/nothing"), "{stderr}");
    setup.hub.add_repo(
        "some/mlx-4bit",
        vec![
            ("model.safetensors", Content::Generated { seed: 1, n_bytes: MB }),
            ("config.json", Content::text("{}")),
        ],
    );
    let (code, _, stderr) = setup.run(&["pull", "some/mlx-4bit"]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("gguf"), "{stderr}");
}

#[test]
fn a_gated_repository_is_explained() {
    let setup = Setup::new();
    setup.hub.set_gated(REPO, shoal_fake_hub::Gate::Granted);
    let (code, _, stderr) = setup.run(&["pull", REPO]);
    assert_ne!(code, Some(0));
    assert!(
        stderr.contains(&format!("{}/{REPO}", setup.hub.endpoint())),
        "the page to visit: {stderr}"
    );
    assert!(stderr.contains("HF_TOKEN"), "{stderr}");
    let output = setup.shoal(&["pull", REPO]).env("HF_TOKEN", FakeHub::TOKEN).output();
    assert!(output.expect("it starts").status.success());
    setup.assert_whole();
    assert!(setup.hub.log().iter().filter(|it| it.at == At::Cdn).all(|it| !it.authorized));
}

#[test]
fn a_file_is_imported_without_a_copy() {
    let setup = Setup::new();
    let path = setup.dir.path().join("mine.gguf");
    std::fs::copy(model(), &path).expect("there is space");
    setup.succeed(&["import", path.to_str().expect("UTF-8"), "--name", "mine"]);
    assert!(setup.succeed(&["list"]).contains("mine"));
    let before = std::fs::metadata(&path).expect("it stays");
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&before), 2, "one file, two names");
    setup.succeed(&["verify", "mine"]);
}

#[test]
fn a_node_pulls_and_tells_how_it_goes() {
    let setup = Setup::new();
    let endpoint = setup.hub.endpoint();
    let node = NodeProcess::start_with("solo", &[], &[("HF_ENDPOINT", &endpoint)]);
    setup.hub.behave(Behaviour::new(At::Cdn, Fault::Slow { bytes_per_s: 4 * MB }));
    let (status, body) = node.post("/download/start", &serde_json::json!({"model": REPO}));
    assert_eq!((status, body["model"].as_str()), (200, Some(NAME)), "{body:#}");
    let (status, _) = node.post("/download/pause", &serde_json::json!({"model": NAME}));
    assert_eq!(status, 200);
    let (_, list) = node.get("/downloads");
    assert_eq!(list["downloads"][0]["state"], "paused", "{list:#}");
    setup.hub.behave_well();
    let (status, _) = node.post("/download/resume", &serde_json::json!({"model": NAME}));
    assert_eq!(status, 200);
    node.wait_at("/downloads", "the download", |list| list["downloads"][0]["state"] == "complete");
    let output = crate::process::output(&["rm", NAME, "--node", node.address()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (_, models) = node.get("/models?status=downloaded");
    assert!(!models.to_string().contains(NAME), "{models:#}");
}

#[test]
fn a_placement_tells_its_phases() {
    let setup = Setup::new();
    let endpoint = setup.hub.endpoint();
    let node = NodeProcess::start_with("solo", &[], &[("HF_ENDPOINT", &endpoint)]);
    setup.hub.behave(Behaviour::new(At::Cdn, Fault::Slow { bytes_per_s: 8 * MB }));
    let mut command = shoal(&["place", REPO, "--node", node.address()]);
    let mut placing =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(placing.stderr.take().expect("piped")).lines();
    let mut phase = || lines.next().map(|line| line.expect("UTF-8"));
    let fetching = std::iter::from_fn(&mut phase).find(|line| line.contains("): fetching"));
    assert!(fetching.is_some_and(|line| line.starts_with(NAME)), "nothing was said of fetching");
    setup.hub.behave_well();
    let rest: Vec<String> = std::iter::from_fn(phase).collect();
    assert_eq!(rest.iter().filter(|line| line.contains("): fetching")).count(), 0, "{rest:?}");
    assert!(rest.last().is_some_and(|line| line.ends_with("): ready")), "{rest:?}");
    let output = placing.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(stdout.starts_with(NAME) && stdout.lines().count() == 1, "{stdout}");
}
