"""Forms that questions and passages come in: text and record files, published data sets."""
