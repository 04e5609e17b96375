SUMMARY = "A small image that stays usable when memory runs out"
DESCRIPTION = "core-image with SSH, lowtide and its profiles, to copy from."
SECTION = "base"
LICENSE = "MIT"

inherit core-image features_check

# Without it the kernel has nothing for the agent to read.
REQUIRED_DISTRO_FEATURES = "lowtide"

IMAGE_FEATURES += "ssh-server-dropbear"
IMAGE_INSTALL = "packagegroup-core-boot packagegroup-lowtide ${CORE_IMAGE_EXTRA_INSTALL}"
