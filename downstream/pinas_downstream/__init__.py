"""Adapters for MMDetection and MMSegmentation."""
