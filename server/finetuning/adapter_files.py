"""Files of an adapter's folder, as PEFT names them."""

CONFIG_FILE = "adapter_config.json"  # the trainer writes it last: a folder without it is not an adapter
ADAPTER_FILES = (CONFIG_FILE, "adapter_model.safetensors")
