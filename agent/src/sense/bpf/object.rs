//! An object of BPF programs: its maps made, its constants set, its programs loaded one by one.

use super::{Missing, call, is_jit_off, is_locked_down, refused};
use aya::maps::{MapData, MapError};
use aya_obj::EbpfSectionKind;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::collections::HashSet;

/// Room for what the verifier says.
const VERIFIER_LOG: usize = 1 << 20;

/// What starts a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// BPF_PROG_TYPE_SYSCALL, sleepable: the agent.
    OnDemand,
    /// BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY: a call of the kernel function with this BTF id.
    Entry(u32),
}

pub struct Object {
    object: aya_obj::Object,
    maps: Vec<(String, MapData)>,
}

impl Object {
    /// Makes the maps of an object whose kfunc calls are resolved. `constants` by name, which are
    /// frozen: the verifier takes them as they are; `sizes` are numbers of entries, by map; `shared` are
    /// maps that are there already.
    pub fn open(
        bytes: &[u8],
        constants: &[(&str, &[u8])],
        sizes: &[(&str, u32)],
        shared: &[(&str, BorrowedFd<'_>)],
    ) -> Result<Self, Missing> {
        let mut object = aya_obj::Object::parse(bytes).map_err(refused)?;
        let constants = constants
            .iter()
            .map(|(name, value)| (*name, (*value, true)));
        object
            .patch_map_data(constants.collect())
            .map_err(refused)?;
        let mut made = Vec::new();
        for (name, mut map) in object.maps.drain() {
            if let Some((_, size)) = sizes.iter().find(|(of, _)| *of == name) {
                map.set_max_entries(*size);
            }
            if let Some((_, fd)) = shared.iter().find(|(of, _)| *of == name) {
                made.push((name, fd.as_raw_fd(), None, map));
                continue;
            }
            let data = MapData::create(map.clone(), &name, None).map_err(map_refused)?;
            if map.section_kind() == EbpfSectionKind::Rodata {
                call::set_value(data.fd(), map.data())
                    .and_then(|()| call::freeze(data.fd()))
                    .map_err(refused)?;
            }
            made.push((name, data.fd().as_fd().as_raw_fd(), Some(data), map));
        }
        let text = object.functions.keys().map(|(section, _)| *section);
        let text = text.collect::<HashSet<_>>();
        let fds = made
            .iter()
            .map(|(name, fd, _, map)| (name.as_str(), *fd, map));
        object.relocate_maps(fds, &text).map_err(refused)?;
        object.relocate_calls(&text).map_err(refused)?;
        let maps = made
            .into_iter()
            .filter_map(|(name, _, data, _)| Some((name, data?)));
        Ok(Self {
            maps: maps.collect(),
            object,
        })
    }

    /// Loads one of its programs.
    pub fn load(&self, name: &str, kind: Kind, verifier_log: bool) -> Result<OwnedFd, Missing> {
        let program = self.object.programs.get(name);
        let program =
            program.ok_or_else(|| refused(format_args!("the BPF object has no program {name}")))?;
        let code = &self.object.functions[&program.function_key()].instructions;
        let mut log = vec![0; if verifier_log { VERIFIER_LOG } else { 0 }];
        call::load(code, &self.object.license, kind, &mut log).map_err(|error| {
            match error.raw_os_error() {
                _ if is_locked_down() => Missing::Lockdown,
                Some(libc::EPERM) => Missing::Permission,
                _ if is_jit_off() => Missing::Jit,
                _ => {
                    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
                    Missing::Refused {
                        what: format!("the kernel refuses the BPF program: {error}"),
                        verifier: String::from_utf8_lossy(&log[..end]).into_owned(),
                    }
                }
            }
        })
    }

    /// One of its maps, to keep. Loaded programs have their own hold on it.
    pub fn take_map(&mut self, name: &str) -> Result<MapData, Missing> {
        let at = self.maps.iter().position(|(of, _)| of == name);
        at.map(|at| self.maps.swap_remove(at).1)
            .ok_or_else(|| refused(format_args!("the BPF object has no map {name}")))
    }
}

fn map_refused(error: MapError) -> Missing {
    match &error {
        MapError::CreateError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
            Missing::Permission
        }
        _ => refused(error),
    }
}
