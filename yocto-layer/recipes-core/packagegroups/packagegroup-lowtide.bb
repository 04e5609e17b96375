SUMMARY = "Out-of-memory agent with the profiles for common devices"
DESCRIPTION = "What an image gets for IMAGE_FEATURES += \"lowtide\": the agent, its profiles and their schema."
SECTION = "base"

inherit packagegroup

RDEPENDS:${PN} = "\
    lowtide \
    lowtide-profiles \
"
