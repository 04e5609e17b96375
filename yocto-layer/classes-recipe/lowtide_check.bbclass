# Fails the build of an image whose config the agent would refuse. In local.conf or an image's recipe:
#   IMAGE_CLASSES += "lowtide_check"

# Options of `lowtide check`: "--strict" fails on warnings, too.
LOWTIDE_CHECK ??= ""

do_rootfs[depends] += "lowtide-native:do_populate_sysroot"
ROOTFS_POSTPROCESS_COMMAND += "lowtide_check_config"

# Images without the agent have nothing to check.
lowtide_check_config() {
    if [ -e ${IMAGE_ROOTFS}${bindir}/lowtide ]; then
        lowtide check ${LOWTIDE_CHECK} --root ${IMAGE_ROOTFS} ||
            bbfatal "the config of lowtide in this image cannot be used, see above"
    fi
}
