//! Copies are noticed, and nothing else is taken for one.

#![cfg(unix)]

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::{Identity, tests::Directory};

const HERE: Option<&[u8]> = Some(b"0123456789abcdef0123456789abcdef");
const THERE: Option<&[u8]> = Some(b"ffffffffffffffffffffffffffffffff");

/// A directory with a key that has been used on the machine.
fn used_on(machine: Option<&[u8]>) -> (Directory, PathBuf) {
    let directory = Directory::new();
    let key = directory.path().join("identity");
    key_file::load_or_create(&key).unwrap();
    check_on(&key, machine).unwrap();
    (directory, key)
}

/// What `cp -r` makes of it.
fn copy(from: &Path) -> (Directory, PathBuf) {
    let directory = Directory::new();
    let key = directory.path().join("identity");
    fs::copy(from, &key).unwrap();
    // Change times have the kernel's tick: one that comes too soon says nothing.
    let changed = |path: &Path| file_facts(path).unwrap().map(|(_, s, ns)| (s, ns));
    while changed(&key) == changed(from) {
        fs::set_permissions(&key, fs::metadata(&key).unwrap().permissions()).unwrap();
    }
    fs::copy(mark_path(from), mark_path(&key)).unwrap();
    (directory, key)
}

#[track_caller]
fn check_is_copy(key: &Path, machine: Option<&[u8]>) {
    let mark = fs::read(mark_path(key)).unwrap();
    let error = check_on(key, machine).unwrap_err();
    assert!(matches!(&error, Error::CopiedIdentity { path } if path == key), "{error:?}");
    assert!(error.to_string().contains("--adopt-identity"), "{error}");
    assert_eq!(fs::read(mark_path(key)).unwrap(), mark, "a copy stays one");
}

#[test]
fn a_key_that_stays_where_it_is_stays_the_devices_own() {
    for machine in [HERE, None] {
        let (_directory, key) = used_on(machine);
        for _ in 0..3 {
            check_on(&key, machine).unwrap();
        }
    }
}

#[test]
fn a_copy_on_the_same_machine_is_noticed() {
    for machine in [HERE, None] {
        let (_original, key) = used_on(machine);
        let (_copy, copied) = copy(&key);
        check_is_copy(&copied, machine);
        check_on(&key, machine).unwrap();
    }
}

#[test]
fn a_copy_on_another_machine_is_noticed_though_the_original_is_not_there() {
    for (machine, other) in [(HERE, THERE), (None, None), (HERE, None), (None, HERE)] {
        let (original, key) = used_on(machine);
        let (_copy, copied) = copy(&key);
        drop(original);
        check_is_copy(&copied, other);
    }
}

#[test]
fn a_key_that_was_moved_to_another_disk_of_the_machine_is_no_copy() {
    let (original, key) = used_on(HERE);
    let (_moved, moved) = copy(&key);
    drop(original);
    check_on(&moved, HERE).unwrap();
    check_on(&moved, HERE).unwrap();
}

#[test]
fn a_key_that_was_restored_in_its_place_on_the_machine_is_no_copy() {
    let (_directory, key) = used_on(HERE);
    let text = fs::read(&key).unwrap();
    let kept = key.with_file_name("old");
    fs::rename(&key, &kept).unwrap();
    fs::write(&key, text).unwrap();
    fs::remove_file(kept).unwrap();
    check_on(&key, HERE).unwrap();
}

#[test]
fn a_renamed_directory_and_a_changed_mode_are_no_copy() {
    use std::os::unix::fs::PermissionsExt as _;

    for machine in [HERE, None] {
        let (directory, key) = used_on(machine);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        check_on(&key, machine).unwrap();
        fs::create_dir(directory.path().join("new")).unwrap();
        let renamed = directory.path().join("new/identity");
        fs::rename(&key, &renamed).unwrap();
        fs::rename(mark_path(&key), mark_path(&renamed)).unwrap();
        check_on(&renamed, machine).unwrap();
    }
}

#[test]
fn an_adopted_copy_is_the_devices_own() {
    let (_original, key) = used_on(machine_id().as_deref());
    let (_copy, copied) = copy(&key);
    assert!(matches!(Identity::load_or_create(&copied), Err(Error::CopiedIdentity { .. })));
    Identity::adopt(&copied).unwrap();
    let id = Identity::load_or_create(&copied).unwrap().id();
    assert_eq!(Identity::load_or_create(&key).unwrap().id(), id);
}

#[test]
fn adopting_makes_no_key() {
    let directory = Directory::new();
    let error = Identity::adopt(&directory.path().join("identity")).unwrap_err();
    assert!(matches!(error, Error::File { action: "read", .. }), "{error:?}");
}

#[test]
fn a_key_of_version_0_1_is_marked_when_it_is_first_used() {
    let directory = Directory::new();
    let key = directory.path().join("identity");
    fs::write(&key, "ab".repeat(32)).unwrap();
    Identity::load_or_create(&key).unwrap();
    assert!(mark_path(&key).exists());
    Identity::load_or_create(&key).unwrap();
}

#[test]
fn a_damaged_mark_is_made_anew() {
    let (_directory, key) = used_on(HERE);
    for text in ["", "shoal device mark 1\n", "shoal device mark 2\n- 1 2 3 00\n", "x"] {
        fs::write(mark_path(&key), text).unwrap();
        check_on(&key, HERE).unwrap();
        assert!(Mark::read(&key).unwrap().is_some(), "{text:?}");
    }
}

/// Every case of the table, which files of a test cannot all bring about.
#[test]
fn a_file_is_judged_by_the_table() {
    let mark = |machine: Option<u8>, inode, changed_s| Mark {
        machine: machine.map(|byte| [byte; 16]),
        inode,
        changed_s,
        changed_ns: 0,
        path: PathBuf::from("/a"),
    };
    let marked = mark(Some(1), 10, 100);
    let judged = |machine, inode, changed_s, is_there| {
        judge(&marked, &mark(machine, inode, changed_s), is_there)
    };
    assert_eq!(judged(Some(1), 10, 100, true), Verdict::Same);
    assert_eq!(judged(Some(2), 10, 100, true), Verdict::Moved, "the machine was installed anew");
    assert_eq!(judged(Some(1), 11, 100, true), Verdict::Moved, "inodes are not stable here");
    assert_eq!(judged(None, 11, 100, true), Verdict::Moved);
    assert_eq!(judged(Some(1), 10, 101, true), Verdict::Moved, "chmod");
    assert_eq!(judged(Some(2), 10, 101, false), Verdict::Copied, "the same inode by chance");
    assert_eq!(judged(Some(1), 11, 101, false), Verdict::Moved);
    assert_eq!(judged(Some(1), 11, 101, true), Verdict::Copied);
    assert_eq!(judged(Some(2), 11, 101, false), Verdict::Copied);
    assert_eq!(judged(None, 11, 101, false), Verdict::Copied);
}

proptest! {
    #[test]
    fn any_mark_survives_its_text(
        machine in any::<Option<[u8; 16]>>(),
        (inode, changed_s, changed_ns) in any::<(u64, i64, i64)>(),
        path in proptest::collection::vec(1_u8.., 1..50),
    ) {
        let path = path_from_bytes(path).unwrap();
        let mark = Mark { machine, inode, changed_s, changed_ns, path };
        prop_assert_eq!(Mark::parse(&mark.to_text()), Some(mark));
    }

    #[test]
    fn any_text_is_read_without_panic(text in any::<String>()) {
        let _ = Mark::parse(&text);
        let _ = Mark::parse(&format!("{TITLE}\n{text}"));
    }
}
