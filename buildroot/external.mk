include $(sort $(wildcard $(BR2_EXTERNAL_LOWTIDE_PATH)/package/*/*.mk))
