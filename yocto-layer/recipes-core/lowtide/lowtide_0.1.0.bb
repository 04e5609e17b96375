# nooelint: oelint.var.mandatoryvar.HOMEPAGE
SUMMARY = "Out-of-memory agent for edge devices"
DESCRIPTION = "Keeps a device usable when memory runs out: woken by PSI before the stall, \
it reclaims, throttles or kills what the config ranks first, verifies the relief, \
and can say afterwards why."
SECTION = "base"
CVE_PRODUCT = "lowtide"
# The BPF programs inside are loaded into the kernel, hence their second choice.
LICENSE = "(MIT | Apache-2.0) & (MIT | GPL-2.0-only)"
LIC_FILES_CHKSUM = "\
    file://LICENSE-MIT;md5=251ea8cbda337d5b0b2ae39700267aa8 \
    file://LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57 \
    file://LICENSE-GPL;md5=b234ee4d69f5fce4486a80fdaf4a4263 \
"

require lowtide-crates.inc
# The layer is a part of the source tree, and builds the tree that it is in.
# nooelint: oelint.vars.fileextrapaths, oelint.vars.outofcontext
FILESEXTRAPATHS:prepend := "${THISDIR}/../../..:"
SRC_URI += "\
    file://Cargo.toml;subdir=${BP} \
    file://Cargo.lock;subdir=${BP} \
    file://LICENSE-APACHE;subdir=${BP} \
    file://LICENSE-GPL;subdir=${BP} \
    file://LICENSE-MIT;subdir=${BP} \
    file://agent;subdir=${BP} \
    file://agent-common;subdir=${BP} \
    file://agent-config;subdir=${BP} \
    file://agent-rules;subdir=${BP} \
    file://config;subdir=${BP} \
    file://desk;subdir=${BP} \
    file://docs/man;subdir=${BP} \
    file://guest;subdir=${BP} \
    file://judge;subdir=${BP} \
    file://pkg;subdir=${BP} \
    file://xtask;subdir=${BP} \
    file://run-ptest \
"

inherit bash-completion cargo ptest-cargo systemd update-rc.d

# Of no use on kernels before 7.0 or without BTF.
PACKAGECONFIG ??= "bpf"
PACKAGECONFIG[bpf] = ",--no-default-features"

CARGO_SRC_DIR = "agent"
# The other tests compare with files of the source tree.
CARGO_SRC_DIR:task-compile-ptest-cargo = "judge"
# Symbols go to the -dbg package.
export CARGO_PROFILE_RELEASE_STRIP = "false"

INITSCRIPT_NAME = "lowtide"
# Right after the volatile directories are there, before any service.
INITSCRIPT_PARAMS = "start 39 S . stop 90 0 6 ."
SYSTEMD_SERVICE:${PN} = "lowtide.service"

# The profile of the image: router, gateway, camera or kiosk. A config in /etc goes over it.
LOWTIDE_PROFILE ??= ""

# On the machine that builds it is for `lowtide check`, see lowtide_check.bbclass, and needs no files.
do_install:append:class-target() {
    install -Dm 0644 ${S}/pkg/config.toml ${D}${sysconfdir}/lowtide/config.toml
    install -d ${D}${nonarch_libdir}/lowtide/profiles
    install -m 0644 ${S}/config/lowtide.schema.json ${D}${nonarch_libdir}/lowtide
    install -m 0644 ${S}/config/profiles/*.toml ${D}${nonarch_libdir}/lowtide/profiles
    if [ -n "${LOWTIDE_PROFILE}" ]; then
        echo 'profile = "${LOWTIDE_PROFILE}"' > ${D}${nonarch_libdir}/lowtide/config.toml
    fi
    install -Dm 0644 ${S}/config/config.toml ${D}${docdir}/${BPN}/config.toml
    install -Dm 0644 ${S}/docs/man/lowtide.8 ${D}${mandir}/man8/lowtide.8
    install -Dm 0644 ${S}/docs/man/lowtide.toml.5 ${D}${mandir}/man5/lowtide.toml.5
    install -Dm 0644 ${S}/pkg/completions/lowtide.bash ${D}${datadir}/bash-completion/completions/lowtide

    if ${@bb.utils.contains('DISTRO_FEATURES', 'systemd', 'true', 'false', d)}; then
        install -Dm 0644 ${S}/pkg/lowtide.service ${D}${systemd_system_unitdir}/lowtide.service
        install -Dm 0644 ${S}/pkg/lowtide.catalog ${D}${nonarch_libdir}/systemd/catalog/lowtide.catalog
    fi
    if ${@bb.utils.contains('DISTRO_FEATURES', 'sysvinit', 'true', 'false', d)}; then
        install -Dm 0755 ${S}/pkg/lowtide.init ${D}${sysconfdir}/init.d/lowtide
    fi
}

PACKAGE_BEFORE_PN += "${PN}-profiles"

# nooelint: oelint.var.filesoverride
FILES:${PN}-profiles = "\
    ${nonarch_libdir}/lowtide/lowtide.schema.json \
    ${nonarch_libdir}/lowtide/profiles \
"
# Drop-ins of other layers, and the profile that is chosen.
FILES:${PN} += "${nonarch_libdir}/lowtide"
CONFFILES:${PN} = "${sysconfdir}/lowtide/config.toml"

RDEPENDS:${PN}-ptest += "${PN}-profiles"
# A config that names a profile cannot be used without it.
RDEPENDS:${PN}:append:class-target = " ${@'${PN}-profiles' if d.getVar('LOWTIDE_PROFILE') else ''}"
RRECOMMENDS:${PN}:append:class-target = " ${PN}-profiles"

BBCLASSEXTEND = "native"
