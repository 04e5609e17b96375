//! Kernels out of Debian's packages, unpacked into the cache and never installed.

use crate::host::apt::Apt;
use crate::host::dirs;
use crate::host::shell::say;
use crate::host::toolchain::Arch;
use anyhow::{Context as _, Result, bail};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

/// Where to look, newest kernels first; later lists are fetched only if the earlier have none.
const SUITES: [&str; 4] = ["trixie-backports", "trixie", "bookworm", "sid"];
/// What is taken if no version is named: the first that has the memcg kfuncs, or newer.
const DEFAULT: &str = "7";

#[derive(Clone, Debug)]
pub struct Kernel {
    pub arch: Arch,
    /// As `uname -r` says.
    pub release: String,
    dir: PathBuf,
}

/// The newest kernel whose version begins with `version`, e.g. `6.12`; also a whole release name.
pub fn find(arch: Arch, version: Option<&str>) -> Result<Kernel> {
    let version = version.unwrap_or(DEFAULT);
    let dir = dirs::cache(&format!("kernels/{}", arch.name()))?;
    let cached: Vec<String> = fs::read_dir(&dir)?
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let release = if cached.iter().any(|r| r == version) {
        version.to_owned()
    } else {
        match fetch(arch, version, &dir) {
            Ok(release) => release,
            Err(e) => {
                let Some(cached) = newest(cached.iter().map(String::as_str), version) else {
                    return Err(e);
                };
                say(format_args!("{e:#}; using {cached} from the cache"));
                cached.to_owned()
            }
        }
    };
    Ok(Kernel {
        arch,
        dir: dir.join(&release),
        release,
    })
}

fn fetch(arch: Arch, version: &str, dir: &Path) -> Result<String> {
    let flavour = flavour(arch)?;
    let mut unread = Vec::new();
    for suite in SUITES {
        let apt = match Apt::open(suite, arch.debian()) {
            Ok(apt) => apt,
            Err(e) => {
                say(format_args!("{e:#}; going on without {suite}"));
                unread.push(suite);
                continue;
            }
        };
        let names = apt.names(&format!("^linux-(image|binary|modules)-[0-9].*-{flavour}$"))?;
        let having = |part: &str| -> Vec<&str> {
            let prefix = format!("linux-{part}-");
            names
                .iter()
                .filter_map(|n| n.strip_prefix(&prefix))
                .collect()
        };
        // From 6.19 on the image lies in linux-binary, and linux-image only depends on it.
        let (images, binaries) = (having("image"), having("binary"));
        let all = images.iter().chain(&binaries).copied();
        let Some(release) = newest(all, version) else {
            continue;
        };
        let mut packages = Vec::new();
        if binaries.contains(&release) {
            packages.push(format!("linux-binary-{release}"));
        } else {
            packages.push(format!("linux-image-{release}"));
        }
        // Older kernels stay in the archive without their modules.
        if having("modules").contains(&release) {
            packages.push(format!("linux-modules-{release}"));
        }
        dirs::make_once(&dir.join(release), |into| {
            apt.unpack(&packages, into)?;
            unpack_image(release, into)
        })?;
        return Ok(release.to_owned());
    }
    if unread.len() == SUITES.len() {
        bail!("no package list of Debian for {} can be had", arch.name());
    }
    Err(Unavailable {
        arch,
        version: version.to_owned(),
        unread,
    }
    .into())
}

/// None of the suites has such a kernel.
#[derive(Debug)]
pub struct Unavailable {
    arch: Arch,
    version: String,
    /// Suites whose package list the mirror did not have.
    unread: Vec<&'static str>,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Debian has no kernel {} for {} in {}",
            self.version,
            self.arch.name(),
            SUITES.join(", ")
        )?;
        if !self.unread.is_empty() {
            write!(
                f,
                ", of which the mirror lacks the list of {}",
                self.unread.join(", ")
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Unavailable {}

/// Suffix of the package names: the smallest build that virtual machines need.
fn flavour(arch: Arch) -> Result<&'static str> {
    match arch {
        Arch::X86_64 => Ok("cloud-amd64"),
        Arch::Aarch64 => Ok("cloud-arm64"),
        Arch::Riscv64 => Ok("riscv64"),
        Arch::Armv7 => bail!("no guest kernel for armv7"),
    }
}

/// The newest of the releases that are `version` or begin with its numbers.
fn newest<'a>(releases: impl Iterator<Item = &'a str>, version: &str) -> Option<&'a str> {
    let numbers = |text: &str| -> Vec<u32> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        text[..end]
            .split('.')
            .filter_map(|n| n.parse().ok())
            .collect()
    };
    let wanted = numbers(version);
    let exact = version.contains(['-', '+']);
    releases
        .filter(|r| {
            if exact {
                *r == version
            } else {
                numbers(r).starts_with(&wanted)
            }
        })
        .max_by_key(|r| numbers(r))
}

/// Puts what QEMU is to boot in `image`: the bare ELF file where the packed one holds it as zstd,
/// since unpacking it on every boot under emulation takes seconds.
fn unpack_image(release: &str, dir: &Path) -> Result<()> {
    let packed = [
        dir.join("usr/lib/modules").join(release).join("vmlinuz"),
        dir.join("boot").join(format!("vmlinuz-{release}")),
        dir.join("boot").join(format!("vmlinux-{release}")),
    ]
    .into_iter()
    .find(|p| p.exists())
    .with_context(|| format!("the packages of {release} hold no kernel image"))?;
    let image = dir.join("image");
    match elf_inside(&fs::read(&packed)?) {
        Some(elf) => fs::write(&image, elf)?,
        None => fs::copy(&packed, &image).map(drop)?,
    }
    Ok(())
}

/// The ELF file inside a bzImage (Documentation/arch/x86/boot.rst).
fn elf_inside(image: &[u8]) -> Option<Vec<u8>> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let word =
        |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = 1 + usize::from(image[0x1f1]);
    let start = sectors * 512 + word(0x248)?;
    let payload = image.get(start..start + word(0x24c)?)?;
    if !payload.starts_with(&ZSTD) {
        return None;
    }
    let mut elf = Vec::new();
    // Behind the stream are four bytes with its unpacked size, which the decoder does not reach.
    ruzstd::decoding::StreamingDecoder::new(payload)
        .ok()?
        .read_to_end(&mut elf)
        .ok()?;
    elf.starts_with(b"\x7fELF").then_some(elf)
}

impl Kernel {
    /// What QEMU is to boot.
    pub fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// Whether there is such a module.
    pub fn has_module(&self, name: &str) -> Result<bool> {
        Ok(!self.modules(&[name])?.is_empty())
    }

    /// Modules by name with all that they depend on, dependencies first: file name and contents.
    /// What has no file is taken to be built in.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let root = ["usr/lib/modules", "lib/modules"]
            .map(|below| self.dir.join(below).join(&self.release).join("kernel"))
            .into_iter()
            .find(|p| p.exists());
        let mut found = Vec::new();
        if let Some(root) = root {
            let mut files = Vec::new();
            list(&root, &mut files)?;
            for name in names {
                add_module(name, &files, &mut found)?;
            }
        }
        Ok(found)
    }
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn add_module(name: &str, files: &[PathBuf], found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    // File names use either; the kernel takes them for the same.
    let name = name.replace('-', "_");
    let file_name = format!("{name}.ko");
    if found.iter().any(|(f, _)| *f == file_name) {
        return Ok(());
    }
    let is_it = |p: &&PathBuf| {
        let file = p
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .replace('-', "_");
        file.strip_suffix(".xz").unwrap_or(&file) == file_name
    };
    let Some(path) = files.iter().find(is_it) else {
        return Ok(());
    };
    let mut module = Vec::new();
    let mut file = BufReader::new(File::open(path)?);
    if path.extension().is_some_and(|e| e == "xz") {
        lzma_rs::xz_decompress(&mut file, &mut module)
            .map_err(|e| anyhow::anyhow!("{}: {e:?}", path.display()))?;
    } else {
        file.read_to_end(&mut module)?;
    }
    for dependency in depends(&module) {
        add_module(&dependency, files, found)?;
    }
    unsign(&mut module);
    found.push((file_name, module));
    Ok(())
}

/// Takes the signature off a module (`include/uapi/linux/module_signature.h`), which Debian's
/// kernels do not insist on: checking one takes a guest a tenth of a second.
fn unsign(module: &mut Vec<u8>) {
    const MARK: &[u8] = b"~Module signature appended~\n";
    /// Of `struct module_signature`, without the length that is its end.
    const HEAD: usize = 8;
    let Some((rest, length)) = module
        .strip_suffix(MARK)
        .and_then(|signed| signed.split_last_chunk())
    else {
        return;
    };
    let end = rest
        .len()
        .checked_sub(HEAD + u32::from_be_bytes(*length) as usize);
    if let Some(end) = end {
        module.truncate(end);
    }
}

/// What the module says it depends on, in its `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..]
        .split(|&b| b == 0)
        .next()
        .unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value
        .split(',')
        .filter(|d| !d.is_empty())
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_compares_numbers_and_keeps_to_the_version() {
        let releases = [
            "6.12.9+deb13-cloud-amd64",
            "6.12.107+deb13-cloud-amd64",
            "6.1.170-49-cloud-amd64",
        ];
        let pick = |version| newest(releases.into_iter(), version);
        assert_eq!(pick("6"), Some(releases[1]));
        assert_eq!(pick("6.12"), Some(releases[1]));
        assert_eq!(pick("6.1"), Some(releases[2]));
        assert_eq!(pick(releases[0]), Some(releases[0]));
        assert_eq!(pick("7"), None);
    }

    #[test]
    fn dependencies_are_those_of_modinfo() {
        assert_eq!(depends(b"x\0depends=a,b-c\0name=y\0"), ["a", "b-c"]);
        assert!(depends(b"x\0depends=\0name=y\0").is_empty());
        assert!(depends(b"no info").is_empty());
    }

    #[test]
    fn a_signature_goes_and_nothing_else() {
        let after = |module: &[u8]| {
            let mut module = module.to_vec();
            unsign(&mut module);
            module
        };
        let mark = b"~Module signature appended~\n";
        let signed = |length: u8| [b"code123", &[0; 11][..], &[length], mark].concat();
        assert_eq!(after(&signed(3)), b"code");
        assert_eq!(after(&signed(200)), signed(200), "longer than the file");
        assert_eq!(after(b"code"), b"code");
    }
}
