"""Precision of floating-point computation: which ops a half-precision program keeps in float32."""
