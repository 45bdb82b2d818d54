"""Structured outputs: conversion of JSON schemas, regular expressions, choices and grammars for the engine."""
