package pki

// Check says why the files in the directory cannot take the place of those in force, nil when they can or are the
// same.
func (i *Identity) Check() error {
	i.reloading.Lock()
	defer i.reloading.Unlock()
	_, err := i.fit(i.now.Load())
	return err
}

// Reload takes over what is in the directory now, if it is good, as Run does by itself a moment after a change.
func (i *Identity) Reload() { i.reload() }
