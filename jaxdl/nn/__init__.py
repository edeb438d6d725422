"""Operations, losses and models."""
