//! What containers are called, by what their runtimes leave on the device. A cgroup has but 64 hex
//! digits where Docker, Podman, containerd and CRI have made it; LXC, Incus and systemd-nspawn have the
//! name in that of the cgroup. Looked up in a pass over all cgroups, never when memory is short, and
//! once for each container: what was found is kept.

use super::json_value::{items, of_key, string};
use crate::escaped::Escaped;
use rustix::fs::{FileType, Mode, OFlags};
use std::cell::RefCell;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Longest name; that of a machine has at most 64 bytes, Docker and Kubernetes keep below 128.
pub const NAME: usize = lowtide_rules::CONTAINER_NAME;
/// Names that are kept at a time. The one that was found first makes room.
const KEPT: usize = 256;
/// Hex digits of an id.
const ID: usize = 64;
/// Most bytes of a file that are read: an OCI config with a list of system calls has 40 KiB, the list
/// of a hundred of Podman's containers 150 KiB.
const FILE: u64 = 256 << 10;

/// Where Docker has what it knows of a container, `Name` among it; the Engine of Home Assistant OS and
/// balenaOS the same.
const DOCKER: &str = "var/lib/docker/containers";
/// Where containerd has the OCI config of what runs, with names among the annotations: that of the
/// system, in the namespaces of Kubernetes and nerdctl, and that of k3s.
const CONTAINERD: [&str; 3] = [
    "run/containerd/io.containerd.runtime.v2.task/k8s.io",
    "run/containerd/io.containerd.runtime.v2.task/default",
    "run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io",
];
const ANNOTATIONS: [&[u8]; 2] = [b"io.kubernetes.cri.container-name", b"nerdctl/name"];
/// Where Podman lists root's containers, by driver of its storage; `--rm` makes a volatile one.
const PODMAN: &str = "var/lib/containers/storage";
const DRIVERS: [&str; 4] = ["overlay", "vfs", "btrfs", "zfs"];
const LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

/// What a cgroup is called of which a container runs in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Called<'a> {
    /// Its name, in which systemd may have escaped bytes as `\xHH`.
    Name(&'a [u8]),
    Id(&'a [u8]),
}

impl<'a> Called<'a> {
    /// `path` is below the root of the tree. `None` where no container is known by it: also of what
    /// only watches one.
    fn at(path: &'a [u8]) -> Option<Self> {
        let last = path.rsplit(|b| *b == b'/').next()?;
        let between = |start: &[u8], end: &[u8]| last.strip_prefix(start)?.strip_suffix(end);
        let name = between(b"lxc.payload.", b"")
            .or_else(|| between(b"systemd-nspawn@", b".service"))
            .or_else(|| between(b"machine-", b".scope"));
        if let Some(name) = name {
            return (!name.is_empty()).then_some(Self::Name(name));
        }
        let unit = last.strip_suffix(b".scope").unwrap_or(last);
        let (runtime, id) = unit.split_at_checked(unit.len().checked_sub(ID)?)?;
        let is_known = matches!(
            runtime,
            b"" | b"docker-" | b"libpod-" | b"cri-containerd-" | b"nerdctl-"
        );
        (is_known && is_id(id)).then_some(Self::Id(id))
    }
}

fn is_id(text: &[u8]) -> bool {
    text.len() == ID && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

type Name = heapless::Vec<u8, NAME>;

/// An id, two hex digits a byte.
#[expect(clippy::arithmetic_side_effects, reason = "hex digits alone")]
fn key(id: &[u8]) -> [u8; ID / 2] {
    let digit = |b: u8| {
        if b.is_ascii_digit() {
            b - b'0'
        } else {
            b - b'a' + 10
        }
    };
    let mut key = [0; ID / 2];
    for (byte, digits) in key.iter_mut().zip(id.as_chunks::<2>().0) {
        *byte = digit(digits[0]) << 4 | digit(digits[1]);
    }
    key
}

/// The names that were found.
#[derive(Default)]
pub struct Containers(RefCell<Vec<([u8; ID / 2], Name)>>);

impl Containers {
    /// Looks for the name of the container in the cgroup at a path, where that is one and none is
    /// known yet, in the files below `root`. Reads files and allocates: not for times of pressure.
    /// Returns whether it is one whose name cannot be known.
    pub fn look(&self, path: &[u8], root: &Path) -> bool {
        let Some(Called::Id(id)) = Called::at(path) else {
            return false;
        };
        if self.known(id, |_| ()).is_some() {
            return false;
        }
        let Some(name) = look_up(id, root) else {
            return true;
        };
        let mut known = self.0.borrow_mut();
        if known.len() == KEPT {
            known.remove(0);
        }
        known.push((key(id), name));
        false
    }

    fn known<T>(&self, id: &[u8], f: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let known = self.0.borrow();
        let key = key(id);
        let mut known = known.iter();
        known.find(|(k, _)| *k == key).map(|(_, name)| f(name))
    }

    /// Copies the name of the container in the cgroup at a path into the buffer; `None` where that is
    /// none, or its name is not known. Allocates nothing.
    pub fn name(&self, path: &[u8], buffer: &mut [u8]) -> Option<usize> {
        match Called::at(path)? {
            Called::Name(name) => unescape(name, buffer),
            Called::Id(id) => self.known(id, |name| {
                buffer.get_mut(..name.len())?.copy_from_slice(name);
                Some(name.len())
            })?,
        }
    }

    /// A path as it is shown: with names in the place of ids.
    pub fn shown<'a>(&'a self, path: &'a [u8]) -> Shown<'a> {
        Shown {
            containers: self,
            path,
        }
    }
}

/// See [`Containers::shown`].
pub struct Shown<'a> {
    containers: &'a Containers,
    path: &'a [u8],
}

impl Display for Shown<'_> {
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a place in a text that is in memory"
    )]
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut rest = self.path;
        while !rest.is_empty() {
            let end = rest
                .iter()
                .position(|b| *b == b'/')
                .map_or(rest.len(), |at| at + 1);
            let (part, after) = rest.split_at(end);
            let name = part.strip_suffix(b"/").unwrap_or(part);
            let unit = name.strip_suffix(b".scope").unwrap_or(name);
            let parts = unit.len().checked_sub(ID).map(|at| unit.split_at(at));
            let known = parts.filter(|(_, id)| is_id(id)).and_then(|(before, id)| {
                let behind = part.strip_prefix(unit).unwrap_or_default();
                self.containers.known(id, |known| {
                    let (before, known, behind) =
                        (Escaped(before), Escaped(known), Escaped(behind));
                    write!(f, "{before}{known}{behind}")
                })
            });
            known.unwrap_or_else(|| write!(f, "{}", Escaped(part)))?;
            rest = after;
        }
        Ok(())
    }
}

/// `\xHH` as a byte, as systemd escapes what stands in the name of a unit.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a place in a text that is in memory"
)]
fn unescape(name: &[u8], buffer: &mut [u8]) -> Option<usize> {
    let (mut rest, mut length) = (name, 0);
    while let [first, after @ ..] = rest {
        let hex = rest.strip_prefix(b"\\x").and_then(|rest| rest.get(..2));
        let hex = hex.and_then(|hex| u8::from_str_radix(core::str::from_utf8(hex).ok()?, 16).ok());
        (*buffer.get_mut(length)?, rest) = match hex {
            Some(byte) => (byte, rest.get(4..)?),
            None => (*first, after),
        };
        length += 1;
    }
    Some(length)
}

/// The name of a container by what its runtime has written of it.
fn look_up(id: &[u8], root: &Path) -> Option<Name> {
    let id = core::str::from_utf8(id).ok()?;
    docker(id, root)
        .or_else(|| containerd(id, root))
        .or_else(|| podman(id, root))
}

fn docker(id: &str, root: &Path) -> Option<Name> {
    let text = read(&root.join(DOCKER).join(id).join("config.v2.json"))?;
    let name = string(of_key(&text, b"Name")?)?;
    named(name.strip_prefix(b"/").unwrap_or(name))
}

fn containerd(id: &str, root: &Path) -> Option<Name> {
    CONTAINERD.iter().find_map(|dir| {
        let text = read(&root.join(dir).join(id).join("config.json"))?;
        let annotations = of_key(&text, b"annotations")?;
        let mut keys = ANNOTATIONS.iter();
        keys.find_map(|key| named(string(of_key(annotations, key)?)?))
    })
}

fn podman(id: &str, root: &Path) -> Option<Name> {
    let lists = DRIVERS
        .iter()
        .flat_map(|driver| LISTS.map(|list| (driver, list)));
    lists.into_iter().find_map(|(driver, list)| {
        let path = format!("{PODMAN}/{driver}-containers/{list}");
        let text = read(&root.join(path))?;
        let is_it = |item: &&[u8]| of_key(item, b"id").and_then(string) == Some(id.as_bytes());
        let container = items(&text).find(is_it)?;
        named(string(items(of_key(container, b"names")?).next()?)?)
    })
}

fn named(name: &[u8]) -> Option<Name> {
    Name::from_slice(name).ok().filter(|name| !name.is_empty())
}

/// The text of a file that is root's, and that nobody else may write.
fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    let by_others = Mode::WGRP | Mode::WOTH;
    let is_roots = stat.st_uid == 0 && !Mode::from(stat.st_mode).intersects(by_others);
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !(is_roots && is_file) {
        return None;
    }
    let mut text = Vec::new();
    File::from(file).take(FILE).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    const HEX: &str = "86199ab4c77bb43a21bef6b7e711bed3c30baa7dc50de3182de3c73d2ba116b7";
    const OTHER: &str = "00199ab4c77bb43a21bef6b7e711bed3c30baa7dc50de3182de3c73d2ba116b7";

    fn image(test: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("lowtide-{}-{test}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        root
    }

    fn name_of(containers: &Containers, path: &str) -> Option<String> {
        let mut buffer = [0; NAME];
        let length = containers.name(path.as_bytes(), &mut buffer)?;
        Some(String::from_utf8(buffer.iter().copied().take(length).collect()).unwrap())
    }

    /// Found on a device with this file, where the test may read it as root's.
    fn found(test: &str, file: &str, text: &str, cgroup: &str) -> Option<String> {
        let root = image(test, &[(file, text)]);
        let containers = Containers::default();
        containers.look(cgroup.as_bytes(), &root);
        let name = name_of(&containers, cgroup);
        fs::remove_dir_all(root).unwrap();
        name
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn the_layouts_of_the_runtimes_are_known() {
        if !is_root() {
            eprintln!("SKIPPED: files of root's can be made by root alone");
            return;
        }
        let docker = r#"{"StreamConfig":{},"HostConfig":{"RestartPolicy":{"Name":"always"}},"ID":"x","Name":"/homeassistant"}"#;
        let file = format!("var/lib/docker/containers/{HEX}/config.v2.json");
        for cgroup in [
            format!("system.slice/docker-{HEX}.scope"),
            format!("docker/{HEX}"),
        ] {
            let name = found("docker", &file, docker, &cgroup);
            assert_eq!(name.as_deref(), Some("homeassistant"), "{cgroup}");
        }
        let k8s = r#"{"ociVersion":"1.1.0","annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.container-name":"broker"}}"#;
        let pod = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice";
        for (dir, cgroup) in [
            (
                "run/containerd",
                format!("{pod}/cri-containerd-{HEX}.scope"),
            ),
            (
                "run/k3s/containerd",
                format!("kubepods/besteffort/pod1/{HEX}"),
            ),
        ] {
            let file = format!("{dir}/io.containerd.runtime.v2.task/k8s.io/{HEX}/config.json");
            assert_eq!(found("k8s", &file, k8s, &cgroup).as_deref(), Some("broker"));
        }
        let podman = format!(
            r#"[{{"id":"{OTHER}","names":["other"]}},{{"id":"{HEX}","names":["web"],"image":"y"}}]"#
        );
        for (list, cgroup) in [
            ("containers", format!("machine.slice/libpod-{HEX}.scope")),
            ("volatile-containers", format!("libpod_parent/libpod-{HEX}")),
        ] {
            let file = format!("var/lib/containers/storage/overlay-containers/{list}.json");
            assert_eq!(
                found("podman", &file, &podman, &cgroup).as_deref(),
                Some("web")
            );
        }
    }

    #[test]
    fn an_id_counts_whole() {
        let last_differs = format!("{}8", HEX.strip_suffix("7").unwrap());
        let containers = Containers::default();
        let name = Name::from_slice(b"broker").unwrap();
        containers.0.borrow_mut().push((key(HEX.as_bytes()), name));
        let called = |id: &str| name_of(&containers, &format!("docker/{id}"));
        assert_eq!(called(HEX).as_deref(), Some("broker"));
        assert_eq!(called(&last_differs), None);
    }

    #[test]
    fn some_names_are_those_of_cgroups() {
        let containers = Containers::default();
        for (cgroup, name) in [
            ("lxc.payload.web", "web"),
            (
                "machine.slice/systemd-nspawn@media\\x2dbox.service",
                "media-box",
            ),
            ("machine.slice/machine-build\\x2d1.scope", "build-1"),
        ] {
            assert_eq!(name_of(&containers, cgroup).as_deref(), Some(name));
        }
        for cgroup in [
            "lxc.payload.",
            "lxc.monitor.web",
            "system.slice/web.service",
            &format!("machine.slice/libpod-conmon-{HEX}.scope"),
            &format!("machine.slice/libpod-{HEX}.scope/container"),
            "",
        ] {
            assert_eq!(name_of(&containers, cgroup), None, "{cgroup}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_names_nothing() {
        let file = format!("var/lib/docker/containers/{HEX}/config.v2.json");
        let root = image("others", &[(&file, r#"{"Name":"/lifeline"}"#)]);
        fs::set_permissions(root.join(&file), fs::Permissions::from_mode(0o666)).unwrap();
        let (containers, cgroup) = (Containers::default(), format!("docker/{HEX}"));
        assert!(containers.look(cgroup.as_bytes(), &root), "it is not known");
        assert_eq!(name_of(&containers, &cgroup), None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_path_is_shown_with_names() {
        let containers = Containers::default();
        let name = Name::from_slice(b"web").unwrap();
        containers.0.borrow_mut().push((key(HEX.as_bytes()), name));
        for (path, shown) in [
            (
                format!("system.slice/docker-{HEX}.scope"),
                "system.slice/docker-web.scope".to_owned(),
            ),
            (
                format!("machine.slice/libpod-{HEX}.scope/container"),
                "machine.slice/libpod-web.scope/container".to_owned(),
            ),
            (format!("docker/{OTHER}"), format!("docker/{OTHER}")),
            ("apps/media".to_owned(), "apps/media".to_owned()),
        ] {
            assert_eq!(containers.shown(path.as_bytes()).to_string(), shown);
        }
    }

    #[test]
    fn no_more_names_are_kept_than_there_is_room_for() {
        if !is_root() {
            eprintln!("SKIPPED: files of root's can be made by root alone");
            return;
        }
        let ids: Vec<_> = (0..KEPT + 10)
            .map(|i| format!("{i:016x}{}", "0".repeat(48)))
            .collect();
        let list: Vec<_> = ids
            .iter()
            .map(|id| format!(r#"{{"id":"{id}","names":["n{id}"]}}"#))
            .collect();
        let file = "var/lib/containers/storage/vfs-containers/containers.json";
        let root = image("many", &[(file, &format!("[{}]", list.join(",")))]);
        let containers = Containers::default();
        for id in &ids {
            assert!(!containers.look(format!("docker/{id}").as_bytes(), &root));
        }
        assert_eq!(containers.0.borrow().len(), KEPT);
        fs::remove_dir_all(root).unwrap();
    }

    proptest! {
        #[test]
        fn any_path_can_be_looked_at(path: Vec<u8>) {
            let containers = Containers::default();
            let mut buffer = [0; NAME];
            let _ = containers.name(&path, &mut buffer);
            prop_assert_eq!(containers.shown(&path).to_string(), Escaped(&path).to_string());
        }
    }
}
