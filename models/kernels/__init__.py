"""Operations of decoder layers: their interface, implementations in torch and C++, and recorded native calls."""
