################################################################################
#
# lowtide
#
################################################################################

# The tree that this is a part of, at the commit that is checked out there.
LOWTIDE_SITE = $(realpath $(BR2_EXTERNAL_LOWTIDE_PATH)/..)
LOWTIDE_VERSION = $(shell git -C $(LOWTIDE_SITE) rev-parse HEAD)
LOWTIDE_SITE_METHOD = git
LOWTIDE_SUBDIR = agent
# The BPF programs inside are loaded into the kernel, hence their second choice.
LOWTIDE_LICENSE = MIT or Apache-2.0 (agent), MIT or GPL-2.0 (BPF programs)
LOWTIDE_LICENSE_FILES = LICENSE-MIT LICENSE-APACHE LICENSE-GPL

# As in its own release profile; Buildroot sets these for the speed of programs.
LOWTIDE_CARGO_ENV = \
	CARGO_PROFILE_RELEASE_OPT_LEVEL="z" \
	CARGO_PROFILE_RELEASE_LTO="fat" \
	CARGO_PROFILE_RELEASE_CODEGEN_UNITS="1" \
	CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS="false" \
	CARGO_PROFILE_RELEASE_PANIC="abort"

LOWTIDE_PROFILE = $(call qstrip,$(BR2_PACKAGE_LOWTIDE_PROFILE))

define LOWTIDE_INSTALL_CONFIG
	$(INSTALL) -D -m 0644 $(@D)/pkg/config.toml \
		$(TARGET_DIR)/etc/lowtide/config.toml
	$(INSTALL) -D -m 0644 $(@D)/config/lowtide.schema.json \
		$(TARGET_DIR)/usr/lib/lowtide/lowtide.schema.json
	$(INSTALL) -d $(TARGET_DIR)/usr/lib/lowtide/profiles
	$(INSTALL) -m 0644 $(@D)/config/profiles/*.toml \
		$(TARGET_DIR)/usr/lib/lowtide/profiles/
	$(INSTALL) -D -m 0644 $(@D)/docs/man/lowtide.8 \
		$(TARGET_DIR)/usr/share/man/man8/lowtide.8
	$(INSTALL) -D -m 0644 $(@D)/docs/man/lowtide.toml.5 \
		$(TARGET_DIR)/usr/share/man/man5/lowtide.toml.5
	$(INSTALL) -D -m 0644 $(@D)/pkg/completions/lowtide.bash \
		$(TARGET_DIR)/usr/share/bash-completion/completions/lowtide
	$(INSTALL) -D -m 0644 $(@D)/pkg/completions/_lowtide \
		$(TARGET_DIR)/usr/share/zsh/site-functions/_lowtide
	$(INSTALL) -D -m 0644 $(@D)/pkg/completions/lowtide.fish \
		$(TARGET_DIR)/usr/share/fish/vendor_completions.d/lowtide.fish
	$(if $(LOWTIDE_PROFILE),printf 'profile = "%s"\n' $(LOWTIDE_PROFILE) \
		> $(TARGET_DIR)/usr/lib/lowtide/config.toml)
endef
LOWTIDE_POST_INSTALL_TARGET_HOOKS += LOWTIDE_INSTALL_CONFIG

define LOWTIDE_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(@D)/pkg/lowtide.init \
		$(TARGET_DIR)/etc/init.d/S02lowtide
endef

define LOWTIDE_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/pkg/lowtide.service \
		$(TARGET_DIR)/usr/lib/systemd/system/lowtide.service
	$(INSTALL) -D -m 0644 $(@D)/pkg/lowtide.catalog \
		$(TARGET_DIR)/usr/lib/systemd/catalog/lowtide.catalog
endef

# An image whose config the agent would refuse is not built.
ifeq ($(BR2_PACKAGE_LOWTIDE_CHECK),y)
LOWTIDE_DEPENDENCIES += host-lowtide
define LOWTIDE_CHECK_CONFIG
	$(HOST_DIR)/bin/lowtide check --root $(TARGET_DIR)
endef
LOWTIDE_ROOTFS_PRE_CMD_HOOKS += LOWTIDE_CHECK_CONFIG
endif

define LOWTIDE_LINUX_CONFIG_FIXUPS
	$(call KCONFIG_ENABLE_OPT,CONFIG_PSI)
	$(call KCONFIG_DISABLE_OPT,CONFIG_PSI_DEFAULT_DISABLED)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CGROUPS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_MEMCG)
	$(call KCONFIG_ENABLE_OPT,CONFIG_FHANDLE)
	$(call KCONFIG_ENABLE_OPT,CONFIG_BPF_SYSCALL)
	$(call KCONFIG_ENABLE_OPT,CONFIG_BPF_JIT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_BPF_JIT_ALWAYS_ON)
	$(if $(BR2_LINUX_KERNEL_NEEDS_HOST_PAHOLE), \
		$(call KCONFIG_ENABLE_OPT,CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT)
		$(call KCONFIG_ENABLE_OPT,CONFIG_DEBUG_INFO_BTF))
endef

$(eval $(cargo-package))
$(eval $(host-cargo-package))
