"""Low-rank adapters of linear layers: what a checkpoint has, and banks that compute with it by the slots of rows."""
