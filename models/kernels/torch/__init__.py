"""Operations of decoder layers in torch: they run on any device, and kernels are tested against them."""
