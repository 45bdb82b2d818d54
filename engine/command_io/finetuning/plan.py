"""TrainingPlan: what a prepared job would take, from the trainer's own figures and without the model's weights."""

import msgspec


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A job before its first step. num_tokens: of the training file. num_learned: of those, tokens that the loss
    covers. replayed_tokens: in all steps, estimated. num_values: trained numbers. num_parameters: of the model's
    matrices. num_multiplied: of these, parameters that a token is multiplied by. width: of a token between layers; a
    higher rank adds nothing. Memory is in bytes."""

    num_examples: int
    num_tokens: int
    num_learned: int
    replayed_tokens: int
    n_epochs: int
    num_steps: int
    lora_rank: int
    num_values: int
    num_parameters: int
    num_multiplied: int
    width: int
    weight_bytes: int
    state_bytes: int
    activation_bytes: int
    work_bytes: int
    free_bytes: int

    @property
    def total_tokens(self) -> int:
        """Tokens that all steps compute."""
        return self.n_epochs * self.num_tokens + self.replayed_tokens

    @property
    def needed_bytes(self) -> int:
        return self.bytes_with_rank(self.lora_rank)

    def bytes_with_rank(self, rank: int) -> int:
        """Return the memory that the job would need with another rank."""
        state_bytes = self.state_bytes * rank // self.lora_rank
        return self.weight_bytes + state_bytes + self.activation_bytes + self.work_bytes
