"""The keys file (``keys.toml``): read and validated, or made with random keys. No message ever shows a key.

``reading``         from a file to what it declares, or to a message that names the file, the line and the field
``watching``        the file read again when it has changed
``accounts``        the sections of accounts and their teams
``keys``            the sections of keys, and the defaults of keys without an account
``limit_fields``    the limits of one section, as windows
``fields``          the values of single fields, and errors that know their place
``identity``        whom the section of a key means
``credential_fields``  the credentials of a key, and the times at which they end
``key_names``       keys as operators write them, and their names in messages
``limit_warnings``  declarations that can be loaded, but hardly mean what they say
``making``          new keys, and files with them
"""
